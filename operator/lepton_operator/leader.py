"""Leader election by a Lease: of all operators only its holder writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lepton_operator import errors, logs
from lepton_operator.cluster import Cluster, Json
from lepton_operator.metrics import Metrics
from lepton_operator.settings import LeaderElection

_log = logs.logger(__name__)


class LeaseLost(Exception):
    """The Lease was not renewed in time, or another one holds it: this process must end."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who wants which Lease."""

    namespace: str
    identity: str


class Leader:
    """A claim to the Lease.

    Other holders' Leases expire by our own clock, counted from when we saw them change, so clocks
    that differ do no harm. Ours is only trusted for the renew deadline, which is shorter than the
    Lease: between the two nobody writes.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: LeaderElection,
        candidate: Candidate,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._candidate = candidate
        self._clock = clock
        self._lease: Json = {}
        self._seen: Any = None  # the holder's last mark, and when we first saw it
        self._seen_at = 0.0
        self._renewed_at: float | None = None
        self._request = asyncio.Lock()
        self._status = metrics.leader.labels(settings.name)
        self._slow = metrics.slow_leader.labels(settings.name)
        self._status.set(0)

    @property
    def elected(self) -> bool:
        """Whether the Lease was acquired and neither lost nor released."""
        return self._renewed_at is not None

    def held(self) -> bool:
        """Whether a write that is sent now is sent by the only holder."""
        return self.elected and self.unrenewed_seconds() < self._settings.renew_deadline_seconds

    def unrenewed_seconds(self) -> float:
        """Return the time since the last renewal was sent; 0 for a standby."""
        return 0.0 if self._renewed_at is None else self._clock() - self._renewed_at

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        waiting = False
        while not await self._try_to_hold():
            if not waiting:
                _log.info("Standing by", lease=self._settings.name, holder=self._holder())
                waiting = True
            await asyncio.sleep(self._settings.retry_seconds)
        self._status.set(1)
        _log.info("Leading", lease=self._settings.name, identity=self._candidate.identity)

    async def keep(self) -> None:
        """Renew the Lease for ever; raises LeaseLost."""
        while True:
            await asyncio.sleep(self._settings.retry_seconds)
            # A loop that was blocked finds its claim expired here, before it asks anybody.
            if self.held() and await self._renew():
                continue
            self._slow.inc()
            if not self.held():
                self._give_up()
                raise LeaseLost(
                    f"Lease {self._settings.name!r} was not renewed for "
                    f"{self._settings.renew_deadline_seconds} s, its holder is "
                    f"{self._holder()!r}: ending, so that a standby can take over."
                )

    async def release(self) -> None:
        """Let a standby take over at once."""
        async with self._request:
            if not self.elected:
                return
            self._give_up()
            spec = {**self._lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            try:
                await self._cluster.put_lease({**self._lease, "spec": spec}, self._request_seconds)
            except errors.ApiError as error:
                _log.warning("The Lease could not be released", error=error.message)

    async def _renew(self) -> bool:
        async with self._request:
            return self.elected and await self._try_to_hold()

    def _give_up(self) -> None:
        self._renewed_at = None
        self._status.set(0)

    async def _try_to_hold(self) -> bool:
        """Acquire or renew once; a renewal does without reading the Lease first."""
        began = self._clock()
        try:
            if not self.elected:
                await self._read()
                if not self._free():
                    return False
            self._lease = await self._cluster.put_lease(self._claim(), self._request_seconds)
        except errors.Conflict:
            return await self._another_wrote()
        except errors.ApiError as error:
            _log.warning("The Lease could not be written", error=error.message)
            return False
        self._renewed_at = began
        return True

    async def _another_wrote(self) -> bool:
        try:
            await self._read()
        except errors.ApiError:
            return False
        if self.elected and self._holder() != self._candidate.identity:
            self._renewed_at = self._clock() - self._settings.renew_deadline_seconds
        return False

    async def _read(self) -> None:
        settings, namespace = self._settings, self._candidate.namespace
        try:
            self._lease = await self._cluster.get_lease(
                namespace, settings.name, self._request_seconds
            )
        except errors.NotFound:
            metadata = {"name": settings.name, "namespace": namespace}
            self._lease = {"metadata": metadata, "spec": {}}
        spec = self._lease["spec"]
        mark = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if mark != self._seen:
            self._seen, self._seen_at = mark, self._clock()

    def _free(self) -> bool:
        if self._holder() in ("", self._candidate.identity):
            return True
        lasts = self._lease["spec"].get("leaseDurationSeconds", self._settings.lease_seconds)
        return self._clock() - self._seen_at >= float(lasts)

    def _holder(self) -> str:
        return str((self._lease.get("spec") or {}).get("holderIdentity") or "")

    def _claim(self) -> Json:
        spec = self._lease["spec"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = spec.get("holderIdentity") == self._candidate.identity
        transitions = int(spec.get("leaseTransitions") or 0)
        claim = {
            "holderIdentity": self._candidate.identity,
            "leaseDurationSeconds": self._settings.lease_seconds,
            "acquireTime": spec.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": transitions if ours else transitions + 1,
        }
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": self._lease["metadata"],
            "spec": claim,
        }

    @property
    def _request_seconds(self) -> float:
        """No request may take so long that no second one fits into the deadline."""
        return self._settings.renew_deadline_seconds / 2
