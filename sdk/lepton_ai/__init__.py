"""Lepton AI's SDK: the same code on a laptop and in the pods of the operator."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

# ONNX Runtime from 1.29 on reports what it runs to its vendor, from its import onwards. A platform
# must not do that behind its users' backs; whoever wants it sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULES = ("checkpoints", "curves", "datasets", "lineage")


def __getattr__(name: str) -> ModuleType:
    """Import a public module when it is first used: `import lepton_ai as lai` stays quick."""
    if name in _MODULES:
        return importlib.import_module(f"lepton_ai.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
