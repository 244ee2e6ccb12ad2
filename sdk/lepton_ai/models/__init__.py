"""Networks, and how their weights are kept; needs torch."""
