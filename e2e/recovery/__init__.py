"""Training jobs that are hurt on purpose, on real pods, and what their recovery took.

The tests of `e2e/test_faults.py` and `make bench-recovery` share it: one set of faults.
"""
