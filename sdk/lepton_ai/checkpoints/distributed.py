"""torch.distributed.checkpoint over a Storage: one file a rank, each item a slice of it.

Tensors are written by torch.save and anything else is pickled, as by DCP's own file-system writer.
There may be more ranks or fewer when a checkpoint is loaded.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from lepton_ai.checkpoints.manifest import StoredFile
from lepton_ai.checkpoints.storage import HashedFile, Storage

METADATA = ".metadata"


@dataclass(frozen=True)
class Slice:
    """Where an item lies."""

    file: StoredFile
    offset: int
    length: int


class Writer(StorageWriter):  # type: ignore[misc]
    """Writes this rank's items; on the coordinator, publishes once all ranks have written theirs.

    Args:
        storage: where to.
        folder: of this checkpoint, which nobody else writes to.
        rank: this one, which names its file.
        publish: is given all files; what it raises is raised by the save in every rank.

    """

    def __init__(
        self,
        storage: Storage,
        folder: str,
        rank: int,
        publish: Callable[[tuple[StoredFile, ...]], None],
    ) -> None:
        self._storage = storage
        self._folder = folder
        self._rank = rank
        self._publish = publish

    def set_up_storage_writer(self, *_: Any, **__: Any) -> None:
        """Do nothing: folders are made with their first file."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        written: Future[list[WriteResult]] = Future()
        written.set_result(self._write(plan.items, planner) if plan.items else [])
        return written

    def _write(self, items: Sequence[WriteItem], planner: SavePlanner) -> list[WriteResult]:
        ends = [0]
        with self._storage.create(f"{self._folder}/rank-{self._rank}.distcp") as file:
            for item in items:
                _write_item(file, item, planner.resolve_data(item))
                ends.append(file.tell())
        stored = file.stored()
        return [
            WriteResult(item.index, end - start, Slice(stored, start, end - start))
            for item, start, end in zip(items, ends[:-1], ends[1:], strict=True)
        ]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        written = [each for of_rank in results for each in of_rank]
        metadata.storage_data = {each.index: each.storage_data for each in written}
        metadata.storage_meta = self.storage_meta()
        with self._storage.create(f"{self._folder}/{METADATA}") as file:
            file.write(pickle.dumps(metadata))
        files = {each.storage_data.file.path: each.storage_data.file for each in written}
        self._publish((*files.values(), file.stored()))

    def storage_meta(self) -> StorageMeta:
        return StorageMeta(checkpoint_id=f"{self._storage.url}/{self._folder}")

    def reset(self, checkpoint_id: object = None) -> None:
        """Do nothing: a writer writes one checkpoint."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:  # noqa: ARG003 - DCP's signature
        return True


def _write_item(file: HashedFile, item: WriteItem, data: Any) -> None:
    if item.type == WriteItemType.BYTE_IO:
        file.write(data.getbuffer())
        return
    try:
        torch.save(_compact(data.detach().cpu()), file)
    except RuntimeError:
        if file.failure is None:
            raise
        raise file.failure from None


def _compact(tensor: Tensor) -> Tensor:
    """Return the tensor in a storage of its own: torch.save writes a view's whole storage."""
    return tensor if tensor.untyped_storage().size() == tensor.nbytes else tensor.clone()


class Reader(StorageReader):  # type: ignore[misc]
    """Reads what a Writer wrote, in any number of ranks; only verified files are to be read."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = folder
        self._slices: dict[Any, Slice] = {}

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        path = f"{self._folder}/{METADATA}"
        length = self._storage.size_bytes(path) or 0
        # Unpickled as what the training itself wrote: whoever may write here may also replace the
        # weights. Its digest is checked, so a damaged file is never unpickled.
        return pickle.loads(self._storage.read(path, 0, length))  # noqa: S301

    def set_up_storage_reader(self, metadata: Metadata, *_: Any, **__: Any) -> None:
        self._slices = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            part = self._slices[item.storage_index]
            path = f"{self._folder}/{part.file.path}"
            _load_item(
                item, io.BytesIO(self._storage.read(path, part.offset, part.length)), planner
            )
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def reset(self, checkpoint_id: object = None) -> None:
        """Do nothing: a reader reads one checkpoint."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:  # noqa: ARG003 - DCP's signature
        return True


def _load_item(item: ReadItem, content: io.BytesIO, planner: LoadPlanner) -> None:
    if item.type == LoadItemType.BYTE_IO:
        planner.load_bytes(item, content)
        return
    saved = torch.load(content, map_location="cpu", weights_only=True)
    target = planner.resolve_tensor(item).detach()
    target.copy_(narrow_tensor_by_index(saved, item.storage_offsets, item.lengths))
    planner.commit_tensor(item, target)
