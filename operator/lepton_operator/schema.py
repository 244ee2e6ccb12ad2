"""Turn a pydantic JSON schema into a Kubernetes structural schema, or refuse.

A structural schema knows no $ref, no null, no union but int-or-string, and no
`additionalProperties: false` (the API server refuses unknown fields by itself under strict field
validation). What can't be said in it is refused here, when the CRDs are generated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_DROPPED = {
    "$defs",
    "additionalProperties",
    "anyOf",
    "const",
    "discriminator",
    "patternProperties",
    "propertyNames",
    "title",
}
_REFUSED = {"allOf", "not", "oneOf", "prefixItems", "uniqueItems"}


class SchemaError(ValueError):
    """The model has a shape that a structural schema cannot express."""


def structural(schema: Mapping[str, Any]) -> Schema:
    """Return the structural form of a pydantic model's JSON schema.

    Raises:
        SchemaError: for unions, recursion and keywords that have no structural form.

    """
    return _convert(schema, schema.get("$defs", {}), ())


def _convert(node: Mapping[str, Any], defs: Mapping[str, Any], path: tuple[str, ...]) -> Schema:
    if ref := node.get("$ref"):
        return _inlined(ref.rsplit("/", 1)[-1], node, defs, path)
    if refused := _REFUSED & node.keys():
        raise SchemaError(f"{sorted(refused)} in {'.'.join(path)}")
    if node.get("x-kubernetes-int-or-string"):
        return _int_or_string(node)
    if variants := node.get("anyOf"):
        return _optional(variants, node, defs, path)
    return _plain(node, defs, path)


def _inlined(
    name: str, node: Mapping[str, Any], defs: Mapping[str, Any], path: tuple[str, ...]
) -> Schema:
    if name in path:
        raise SchemaError(f"{name} contains itself")
    siblings = {key: value for key, value in node.items() if key != "$ref"}
    return _convert({**defs[name], **siblings}, defs, (*path, name))


def _int_or_string(node: Mapping[str, Any]) -> Schema:
    kept = ("description", "default", "maxLength", "pattern", "x-kubernetes-validations")
    found = {key: node[key] for key in kept if node.get(key) is not None}
    return {**found, "x-kubernetes-int-or-string": True}


def _optional(
    variants: list[Mapping[str, Any]],
    node: Mapping[str, Any],
    defs: Mapping[str, Any],
    path: tuple[str, ...],
) -> Schema:
    """X | None becomes X: in a Kubernetes object, absent is how nothing is said."""
    present = [variant for variant in variants if variant.get("type") != "null"]
    if len(present) != 1:
        raise SchemaError(f"a union in {'.'.join(path) or 'the root'}")
    siblings = {key: value for key, value in node.items() if key != "anyOf"}
    if siblings.get("default", ...) is None:
        del siblings["default"]
    return _convert({**present[0], **siblings}, defs, path)


def _plain(node: Mapping[str, Any], defs: Mapping[str, Any], path: tuple[str, ...]) -> Schema:
    out = {key: value for key, value in node.items() if key not in _DROPPED}
    if "const" in node:
        out["enum"] = [node["const"]]
    if out.get("default") in ([], {}):
        # Written into every stored object, it would fill `kubectl describe` with empty headings.
        del out["default"]
    elif isinstance(out.get("default"), Mapping):
        out["default"] = {key: it for key, it in out["default"].items() if it not in ([], {})}
    if "properties" in node:
        out["properties"] = {
            key: _convert(value, defs, path) for key, value in node["properties"].items()
        }
    elif isinstance(extra := node.get("additionalProperties"), Mapping):
        out["additionalProperties"] = _convert(extra, defs, path)
    elif patterns := node.get("patternProperties"):
        out |= _keyed(patterns, node, defs, path)
    if "items" in node:
        out["items"] = _convert(node["items"], defs, path)
    return out


def _keyed(
    patterns: Mapping[str, Any],
    node: Mapping[str, Any],
    defs: Mapping[str, Any],
    path: tuple[str, ...],
) -> Schema:
    """A map whose keys have a pattern: the pattern becomes a CEL rule."""
    ((pattern, value),) = patterns.items()
    rule = {
        "rule": f"self.all(key, key.matches('{pattern}'))",
        "message": f"every key must match {pattern}",
    }
    rules = [*node.get("x-kubernetes-validations", ()), rule]
    return {
        "additionalProperties": _convert(value, defs, path),
        "x-kubernetes-validations": rules,
    }
