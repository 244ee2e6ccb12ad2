"""What must be true at every moment of a run, whatever its end: the promises of serving.

Two watches and a stream tell of one event in any order, so that a pod is asked at the end whether
there was a reason; what a door was told before it answered is known at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.resilience.doors import Door
from tests.resilience.history import Body, World

_DRAINING = "lepton.ai/draining"
_ROLE, _NAME = "lepton.ai/role", "lepton.ai/name"


@dataclass(slots=True)
class Promises:
    """`needed` pods are in rotation from when it is armed. `taken` are pods that a person took."""

    world: World
    door: Door
    needed: int
    armed: bool = False
    taken: set[str] = field(default_factory=set)
    _fewest: int | None = None
    _rotation: dict[str, str] = field(default_factory=dict)  # the pods' UIDs, by address
    _lost: set[str] = field(default_factory=set)  # UIDs of pods that left the rotation
    _undrained: dict[str, str] = field(default_factory=dict)  # services, by the pod's name
    _misled: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Look at everything from now on."""
        self.door.looked_at = self._look_at_rotation
        self.world.followers.append(self._receive)

    def are_met(self) -> bool:
        """Whether as many pods are in rotation as are needed."""
        return len(self._rotation) >= self.needed

    def arm(self) -> None:
        self.armed = True
        self._look_at_rotation()

    def broken(self) -> Iterator[str]:
        """Yield a sentence for each promise that was broken."""
        if self._fewest is not None and self._fewest < self.needed:
            yield f"only {self._fewest} of {self.needed} pods were in rotation"
        for uid in sorted(self._lost, key=self._name):
            if not _is_excused(self.world.pods[uid]) and uid not in self.world.removed:
                yield f"the door lost {self._name(uid)}, which serves"
        for pod, service in sorted(self._undrained.items()):
            if self._is_there(service):
                yield f"{pod} was deleted before it had drained"
        for service in sorted(filter(self._is_there, self.door.removed)):
            yield f"the door lost service {service}, which is there"
        yield from self._misled

    def _name(self, uid: str) -> str:
        return str(self.world.pods[uid]["metadata"]["name"])

    def _is_there(self, service: str) -> bool:
        return self.world.get("inferenceservices", service) is not None

    def _look_at_rotation(self) -> None:
        """A pod counts that requests are sent to, by the door or past it, and that takes them."""
        ready = {
            str(pod["status"]["podIP"]): str(pod["metadata"]["uid"])
            for pod in self.world.list("pods")
            if pod["metadata"]["labels"].get(_ROLE) == "serve" and _takes_requests(pod)
        }
        services = tuple(self.world.list("services"))
        leads = any(map(_leads_to_door, services)) or not services
        reached = self.door.rotation if leads else ready.keys()
        found = {address: uid for address, uid in ready.items() if address in reached}
        self._lost |= {uid for address, uid in self._rotation.items() if address not in reached}
        self._rotation = found
        self.world.changed.set()
        if self.armed:
            self._fewest = len(found) if self._fewest is None else min(len(found), self._fewest)

    def _receive(self, resource: str, before: Body | None, after: Body) -> None:
        if resource == "services" and before is not None:
            self._look_at_service(before, after)
        if resource == "pods" and after["metadata"]["labels"].get(_ROLE) == "serve":
            self._look_at_pod(before, after)
            self._look_at_rotation()

    def _look_at_pod(self, before: Body | None, after: Body) -> None:
        if before is None or not _takes_requests(before):
            return
        name, address = str(after["metadata"]["name"]), before["status"]["podIP"]
        goes = "deletionTimestamp" in after["metadata"]
        if goes and name not in self.taken and self.door.in_flight().get(address) != 0:
            self._undrained[name] = after["metadata"]["labels"][_NAME]

    def _look_at_service(self, before: Body, after: Body) -> None:
        if _leads_to_door(before) or not _leads_to_door(after):
            return
        ports = {each["targetPort"] for each in after["spec"]["ports"]}
        if not ports <= set(self.door.listens_on()):
            name = after["metadata"]["name"]
            self._misled.append(f"Service {name} was led to the doors before they listen there")


def _leads_to_door(service: Body) -> bool:
    return bool(service["spec"].get("selector", {}).get(_ROLE) == "door")


def _takes_requests(pod: Body) -> bool:
    conditions = pod["status"].get("conditions", ())
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def _is_excused(pod: Body) -> bool:
    """Whether there is a reason that a pod gets no requests."""
    return _DRAINING in pod["metadata"].get("annotations", {}) or not _takes_requests(pod)
