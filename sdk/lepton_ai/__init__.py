"""Lepton AI's SDK: the same code on a laptop and in the pods of the operator."""

import os

# ONNX Runtime from 1.29 on reports what it runs to its vendor, from its import onwards. A platform
# must not do that behind its users' backs; whoever wants it sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
