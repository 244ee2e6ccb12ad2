"""The end state of a namespace, without what differs between two runs that are both right."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.resilience.writes import normal_name

Leaves = Mapping[str, str]
"""What stands at each path: `Pod digits-serve-N[0].status.phase` -> `"Running"`."""

_DROPPED_METADATA = frozenset({"uid", "resourceVersion", "creationTimestamp", "managedFields"})
_UID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|[+-][0-9:]+)")
_ADDRESS = re.compile(r"\b(?:10|127)(?:\.[0-9]{1,3}){3}\b")
_NODE = re.compile(r"\bfake-[0-9]+\b")
# How long things took: an operator that was away has everybody wait for it.
_DURATIONS = frozenset({"ledger", "activeSeconds"})
_ENDING_ANNOTATION = "resilience.test/"


def leaves(namespace: str, objects: Iterable[Mapping[str, Any]]) -> Leaves:
    """Return every value of every object by its path; objects of one normal name are sorted."""
    by_name: dict[str, list[Any]] = {}
    for each in objects:
        found = _normal(namespace, _without_volatile(each))
        by_name.setdefault(f"{found['kind']} {found['metadata']['name']}", []).append(found)
    return {
        path: value
        for name, alike in sorted(by_name.items())
        for index, each in enumerate(sorted(alike, key=_text))
        for path, value in _flat(f"{name}[{index}]", each)
    }


def differences(wanted: Leaves, found: Leaves, masked: frozenset[str] = frozenset()) -> list[str]:
    """Return a line for each path at which two end states differ."""
    paths = sorted((wanted.keys() | found.keys()) - masked)
    return [
        f"{path}: {wanted.get(path, 'absent')} became {found.get(path, 'absent')}"
        for path in paths
        if wanted.get(path) != found.get(path)
    ]


def differing_paths(one: Leaves, other: Leaves) -> frozenset[str]:
    """Return the paths at which two end states differ."""
    return frozenset(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def _without_volatile(body: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: it for key, it in body["metadata"].items() if key not in _DROPPED_METADATA}
    annotations = metadata.get("annotations", {})
    ours = {key: it for key, it in annotations.items() if not key.startswith(_ENDING_ANNOTATION)}
    return {**body, "metadata": {**metadata, "annotations": ours}}


def _normal(namespace: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {key: each for key, each in value.items() if key not in _DURATIONS}
        return {key: _normal(namespace, each) for key, each in kept.items()}
    if isinstance(value, list):
        return [_normal(namespace, each) for each in value]
    return _normal_text(namespace, value) if isinstance(value, str) else value


def _normal_text(namespace: str, text: str) -> str:
    for pattern, word in ((_UID, "UID"), (_TIME, "TIME"), (_ADDRESS, "IP"), (_NODE, "NODE")):
        text = pattern.sub(word, text)
    return normal_name(text.replace(namespace, "NAMESPACE"))


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _flat(f"{path}.{key}", each)
    elif isinstance(value, list) and value:
        for index, each in enumerate(value):
            yield from _flat(f"{path}[{index}]", each)
    else:
        yield path, _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
