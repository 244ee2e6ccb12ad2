"""All the writing: carries out a Plan, and takes the answers into the cache.

The order is deletes, creates (pods before other kinds), patches, the status, events. What an
answer says is known at once, so the next plan sees what this one did before any watch tells.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from lepton_operator import bodies, errors, names
from lepton_operator.api.common import API_VERSION, StatusModel
from lepton_operator.api.inference import InferenceServiceStatus
from lepton_operator.api.model import LeptonModelStatus
from lepton_operator.api.training import TrainingJobStatus
from lepton_operator.cache import Cache, Change, OwnObject
from lepton_operator.cluster import Cluster
from lepton_operator.plan import Create, Delete, Event, Manifest, Patch, Plan
from lepton_operator.views import Refusal

PARALLEL_WRITES = 20
REMEMBERED_EVENTS = 20_000
_MAX_EVENT_MESSAGE = 1024

_STATUS: Mapping[str, type[StatusModel]] = {
    "TrainingJob": TrainingJobStatus,
    "LeptonModel": LeptonModelStatus,
    "InferenceService": InferenceServiceStatus,
}


@dataclass(slots=True)
class Report:
    """What a pass wrote, and what the API server refused."""

    deleted: int = 0
    created: int = 0
    patched: int = 0
    status_written: bool = False
    put_off: bool = False
    refusals: list[Refusal] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def wrote(self) -> bool:
        return self.status_written or self.deleted + self.created + self.patched > 0


class Executor:
    def __init__(self, cluster: Cluster, cache: Cache) -> None:
        self._cluster = cluster
        self._cache = cache
        self._posted: OrderedDict[str, None] = OrderedDict()

    async def execute(
        self, own: OwnObject, plan: Plan, report: Report, put_off: Callable[[], bool], now: datetime
    ) -> None:
        """Carry out a plan, and note in the report what was done, also if an error ends it.

        After the pods `put_off` is asked whether the rest shall wait for a later pass.
        """
        pods, others = _split(plan.create)
        await _bounded(self._delete(each, report) for each in plan.delete)
        await self._create_all(own, pods, report)
        status = plan.status if _differs(own, plan.status) else None
        if (others or plan.patch or status is not None or plan.events) and put_off():
            report.put_off = True
            return
        await self._create_all(own, others, report)
        await _bounded(self._patch(each, report) for each in plan.patch)
        if report.refusals:
            return  # the status is to say so: it is planned again with what was refused
        await self.write_status(own, status, report)
        await self.post(own, plan.events, now)

    async def write_status(self, own: OwnObject, status: Manifest | None, report: Report) -> None:
        """Write the status of the object as it was seen, if it differs."""
        if status is None or not _differs(own, status):
            return
        answer = await self._cluster.patch_status(own.reference, own.resource_version, status)
        report.status_written = True
        self._take(own.key.kind, answer, report)

    async def post(self, own: OwnObject, events: Iterable[Event], now: datetime) -> None:
        """Post Events that were not posted yet; a lost Event is no reason to fail."""
        for event in events:
            manifest = _event_manifest(own, event, now)
            name = manifest["metadata"]["name"]
            if name in self._posted:
                continue
            try:
                await self._cluster.create(manifest)
            except errors.AlreadyExists:
                pass
            except errors.ApiError:
                continue
            self._posted[name] = None
            if len(self._posted) > REMEMBERED_EVENTS:
                self._posted.popitem(last=False)

    async def _create_all(self, own: OwnObject, creates: list[Create], report: Report) -> None:
        """Create in bounded batches; a batch with a refusal is the last one."""
        for start in range(0, len(creates), PARALLEL_WRITES):
            batch = creates[start : start + PARALLEL_WRITES]
            await _bounded(self._create(own, each, report) for each in batch)
            if report.refusals:
                return

    async def _create(self, own: OwnObject, create: Create, report: Report) -> None:
        kind, name = create.manifest["kind"], create.manifest["metadata"]["name"]
        try:
            answer = await self._cluster.create(create.manifest)
        except errors.AlreadyExists:
            if not create.shared:
                await self._meet(own, kind, name, report)
        except errors.QuotaExceeded as error:
            report.refusals.append(Refusal(name, "QuotaExceeded", error.message))
        except (errors.Forbidden, errors.Invalid) as error:
            report.refusals.append(Refusal(name, "Refused", error.message))
        else:
            report.created += 1
            self._take(kind, answer, report)

    async def _meet(self, own: OwnObject, kind: str, name: str, report: Report) -> None:
        """Look at what has the name already: our own object is fine, a stranger's is not."""
        found = await self._cluster.get(kind, own.key.namespace, name)
        is_ours = bodies.owner_uid(found) == own.uid
        if is_ours:
            self._take(kind, found, report)
        if not is_ours or not self._cache.knows(found["metadata"]["uid"]):
            sentence = f"{kind} {name} {_why_taken(own, found, is_ours=is_ours)}"
            report.refusals.append(Refusal(name, "NameTaken", sentence))

    async def _delete(self, delete: Delete, report: Report) -> None:
        target = delete.target
        try:
            answer = await self._cluster.delete(target, delete.grace_seconds)
        except errors.NotFound:  # a Conflict may have other reasons than another UID: it is raised
            self._note(self._cache.vanish(target.uid), report)
            return
        report.deleted += 1
        if answer.get("kind") != target.kind:  # a Status, which says that it is gone
            self._note(self._cache.vanish(target.uid), report)
            return
        if "resourceVersion" in answer["metadata"]:
            self._take(target.kind, answer, report)
        else:  # the kubelet removed it meanwhile: this is its last state, which was never stored
            self._note(self._cache.remove(target.kind, answer), report)

    async def _patch(self, patch: Patch, report: Report) -> None:
        answer = await self._cluster.patch(patch.target, patch.body)
        report.patched += 1
        self._take(patch.target.kind, answer, report)

    def _take(self, kind: str, answer: bodies.Body, report: Report) -> None:
        self._note(self._cache.put(kind, answer), report)

    def _note(self, change: Change | None, report: Report) -> None:
        report.changes.extend([change] if change else [])


def _why_taken(own: OwnObject, found: bodies.Body, *, is_ours: bool) -> str:
    kind = own.key.kind
    if is_ours:
        return (
            "belongs to this object, but its labels were changed, so that it is seen no more: "
            "delete it"
        )
    if bodies.owner_name(found) == (kind, own.key.name):
        return f"of the {kind} that had this name before is still being deleted: it is waited for"
    return (
        f"exists in this namespace and belongs to another owner: delete it, or give this {kind} "
        "another name"
    )


async def _bounded(writes: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run writes at once, a bounded number at a time; all end before the first error is raised."""
    slots = asyncio.Semaphore(PARALLEL_WRITES)

    async def limited(write: Coroutine[Any, Any, None]) -> None:
        async with slots:
            await write

    pending = list(writes)
    if len(pending) == 1:
        await pending[0]
        return
    results = await asyncio.gather(*map(limited, pending), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _split(creates: Iterable[Create]) -> tuple[list[Create], list[Create]]:
    pods: list[Create] = []
    others: list[Create] = []
    for each in creates:
        (pods if each.manifest["kind"] == "Pod" else others).append(each)
    return pods, others


def _differs(own: OwnObject, status: Manifest | None) -> bool:
    """Whether a wanted status says anything else than the one that was read."""
    found = own.body["status"]
    if status is None or status == found:
        return False
    try:
        return _STATUS[own.key.kind].model_validate(found).wire() != status
    except ValidationError:
        return True


def _event_manifest(own: OwnObject, event: Event, now: datetime) -> dict[str, Any]:
    """Return an Event whose name follows from what it says, so that it is stored once."""
    message = event.message[:_MAX_EVENT_MESSAGE]
    content = f"{own.uid}\n{event.type}\n{event.reason}\n{message}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{own.key.name}.{digest}", "namespace": own.key.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": own.key.kind,
            "namespace": own.key.namespace,
            "name": own.key.name,
            "uid": own.uid,
            "resourceVersion": own.resource_version,
        },
        "type": event.type,
        "reason": event.reason,
        "message": message,
        "source": {"component": names.OPERATOR},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
