"""The autoscaler on real pods, beside what the simulator says of the same requests."""
