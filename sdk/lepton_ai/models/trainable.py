"""The trainable form of a model: safetensors, and the name of the architecture that they fill.

Neither holds code, so reading a stranger's folder runs nothing of theirs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load, save

from lepton_ai.models.digits import DigitsNet

ARCHITECTURES: dict[str, type[Architecture]] = {"DigitsNet": DigitsNet}
ARCHITECTURE_FILE = "architecture.json"
WEIGHTS_FILE = "model.safetensors"


class Architecture(Protocol):
    """A torch module that can be made again from the arguments that it keeps."""

    arguments: dict[str, Any]

    def __init__(self, **arguments: Any) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object: ...


def save_trainable(model: Architecture, folder: Path) -> None:
    """Write ``model.safetensors`` and ``architecture.json`` into a folder; make it if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    architecture = {"architecture": type(model).__name__, "arguments": model.arguments}
    (folder / ARCHITECTURE_FILE).write_text(json.dumps(architecture, indent=2) + "\n")
    (folder / WEIGHTS_FILE).write_bytes(save(model.state_dict()))


def load_trainable(folder: Path) -> Architecture:
    """Make the model that ``save_trainable`` wrote, with its weights, on the CPU.

    Raises:
        ValueError: this version of lepton_ai does not know the architecture.
        RuntimeError: the weights do not fit the architecture.

    """
    architecture = json.loads((folder / ARCHITECTURE_FILE).read_text())
    name = architecture["architecture"]
    if name not in ARCHITECTURES:
        raise ValueError(
            f"{folder / ARCHITECTURE_FILE} names the architecture {name!r}, but this version of "
            f"lepton_ai knows only {', '.join(sorted(ARCHITECTURES))}. "
            "Load it with the version that wrote it."
        )
    model = ARCHITECTURES[name](**architecture["arguments"])
    model.load_state_dict(load((folder / WEIGHTS_FILE).read_bytes()))
    return model
