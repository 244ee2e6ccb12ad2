"""What doors and Tritons count of every service: from Prometheus, or from the doors themselves."""
