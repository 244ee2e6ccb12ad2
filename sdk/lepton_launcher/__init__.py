"""PID 1 of every training pod, in anybody's image: standard library only, Python 3.9 or newer.

`run` waits for the attempt that the operator tells, starts the ranks, and ends with a record of
what happened (docs/architecture.md, "A training pod"). The same code trains on a laptop:
`python -m lepton_launcher run --alone --nproc-per-node 2 -- train.py`.
"""
