"""How many replicas a service should have: a pure law over samples, bounds, limits, schedules."""
