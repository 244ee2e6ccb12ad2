"""The number of replicas of services that ask for a latency: what is counted, decided, and set."""
