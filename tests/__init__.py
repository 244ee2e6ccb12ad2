"""Everything that is tested without a cluster.

A package, not only a folder: the wheel of `ciw` brings a top-level `tests` of its own, which would
hide a folder from `python -m e2e.demo` and the benchmarks.
"""
