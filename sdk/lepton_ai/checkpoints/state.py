"""What of a training is saved, as torch.distributed.checkpoint takes it, and put back."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

Tree = dict[str, Any]


class Stateful(Protocol):
    """A scheduler, a sampler, a scaler, an average of weights: whatever has a state."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any, /) -> object: ...


@dataclass(frozen=True)
class TrainingState:
    """A training: its model's and optimizers' tensors, shared by the ranks, and everything else.

    Attributes:
        model: may be wrapped (DistributedDataParallel, fully_shard) or not.
        optimizers: of this model's parameters.
        objects: by name; their states are the same in every rank.
        rank: whose random states are saved and put back.

    """

    model: nn.Module
    optimizers: tuple[Optimizer, ...]
    objects: Mapping[str, Stateful]
    rank: int

    def fingerprint(self) -> str:
        """Identify the model's shape: names, shapes and types, the same for any number of ranks."""
        shapes = {
            name: [str(value.dtype), list(value.shape)] if hasattr(value, "dtype") else "object"
            for name, value in get_model_state_dict(self.model).items()
        }
        return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()

    def tree(self) -> Tree:
        """Return the state as it is now. Tensors are the training's own, anything else a copy."""
        tree: Tree = {"model": get_model_state_dict(self.model)}
        if self.optimizers:
            tree["optimizer"] = get_optimizer_state_dict(self.model, self.optimizers)
        if self.rank == 0:
            tree["objects"] = {
                name: _packed(each.state_dict()) for name, each in self.objects.items()
            }
        tree["random"] = {f"rank-{self.rank}": _packed(random_state())}
        return tree

    def template(self, saved: Collection[str]) -> Tree:
        """Return what a checkpoint with these keys is loaded into.

        Left out is what the checkpoint does not have: the state of a parameter that never got a
        gradient, a new object, the random states of ranks that were not there.
        """
        tree: Tree = {"model": get_model_state_dict(self.model)}
        if self.optimizers:
            optimizer = get_optimizer_state_dict(self.model, self.optimizers)
            optimizer["state"] = {
                name: state
                for name, state in optimizer["state"].items()
                if any(key.startswith(f"optimizer.state.{name}.") for key in saved)
            }
            tree["optimizer"] = optimizer
        names = [name for name in self.objects if f"objects.{name}" in saved]
        tree["objects"] = dict.fromkeys(names, b"")
        if f"random.rank-{self.rank}" in saved:
            tree["random"] = {f"rank-{self.rank}": b""}
        return tree

    def missing(self, saved: Collection[str]) -> list[str]:
        """Name the objects that a checkpoint with these keys does not have."""
        return [name for name in self.objects if f"objects.{name}" not in saved]

    def put_back(self, tree: Tree) -> None:
        """Go on as the loaded checkpoint says; the random states come last."""
        set_model_state_dict(self.model, tree["model"])
        if self.optimizers:
            set_optimizer_state_dict(
                self.model,
                self.optimizers,
                tree["optimizer"],
                options=StateDictOptions(strict=False),
            )
        for name, content in tree["objects"].items():
            self.objects[name].load_state_dict(_unpacked(content))
        for content in tree.get("random", {}).values():
            set_random_state(_unpacked(content))


def _packed(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _unpacked(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)


def random_state() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's random numbers, on all devices."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - what a user's script may draw from
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    for device, numbers in _present_devices(state["cuda"]):
        torch.cuda.set_rng_state(numbers, device)


def _present_devices(states: Iterable[Any]) -> list[tuple[int, Any]]:
    return [(i, each) for i, each in enumerate(states) if i < torch.cuda.device_count()]
