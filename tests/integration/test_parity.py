"""What pydantic builds the API server takes, keeps whole, and gives back as the same value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from e2e.cluster.control_plane import ControlPlane
from lepton_operator.api.common import API_VERSION
from lepton_operator.cluster import RESOURCES
from lepton_operator.crds import DEFINITIONS, Definition
from tests.integration.wire import Wire

Schema = Mapping[str, Any]
Json = st.SearchStrategy[Any]

NAMESPACE = "default"
EXAMPLES = 100
LONGEST_TEXT = 60
MOST_ITEMS = 3
DEFAULT_INTEGERS = (1, 64)
DEFAULT_NUMBERS = (-1e6, 1e6)
SPECS = {
    "TrainingJob": {"entrypoint": ["train.py"]},
    "LeptonModel": {},
    "InferenceService": {"model": {"name": "digits"}},
}


@pytest.fixture(scope="module")
def wire(plane: ControlPlane) -> Iterator[Wire]:
    found = Wire(plane)
    for kind, spec in SPECS.items():
        found.create(path(kind), manifest(kind, "parity", spec))
    yield found
    found.close()


def path(kind: str, name: str = "") -> str:
    return RESOURCES[kind].path(NAMESPACE, name)


def manifest(kind: str, name: str, spec: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda each: each.kind)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_spec_is_taken_and_nothing_of_it_is_lost(
    wire: Wire, definition: Definition, data: st.DataObject
) -> None:
    raw = data.draw(objects(definition.spec))
    try:
        built = definition.spec.model_validate(raw)
    except ValidationError:  # what a rule says, a schema does not know
        reject()
    sent = built.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    body = manifest(definition.kind, "another", sent)
    answer = wire.create(path(definition.kind), body, dry_run=True)
    assert answer.accepted, answer.sentence
    assert holds(answer.body["spec"], sent)
    read = definition.spec.model_validate(answer.body["spec"])
    assert read == definition.spec.model_validate(sent), "the two have other defaults"


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda each: each.kind)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_status_that_was_written_reads_the_same_so_that_it_is_not_written_again(
    wire: Wire, definition: Definition, data: st.DataObject
) -> None:
    raw = data.draw(objects(definition.status))
    sent = definition.status.model_validate(raw).wire()
    answer = wire.replace_status(path(definition.kind, "parity"), sent, dry_run=True)
    assert answer.accepted, answer.sentence
    assert holds(answer.body["status"], sent)
    assert definition.status.model_validate(answer.body["status"]).wire() == sent


def holds(found: Any, sent: Any) -> bool:
    """Whether all that was sent is there; defaults may have been added."""
    if isinstance(sent, Mapping):
        return all(key in found and holds(found[key], value) for key, value in sent.items())
    if isinstance(sent, list):
        return len(found) == len(sent) and all(map(holds, found, sent))
    return bool(found == sent)


@cache
def objects(model: type[BaseModel]) -> Json:
    """Values of a model's JSON schema, as far as pydantic can express one."""
    schema = model.model_json_schema(by_alias=True)
    return _values(schema, schema.get("$defs", {}))


def _values(schema: Schema, definitions: Schema) -> Json:
    if "$ref" in schema:
        return _values(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    if "anyOf" in schema:
        outer = {key: schema[key] for key in ("pattern", "maxLength") if key in schema}
        variants = [each for each in schema["anyOf"] if each.get("type") != "null"]
        return st.one_of([_values({**each, **outer}, definitions) for each in variants])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    return _TYPES[schema["type"]](schema, definitions)


def _strings(schema: Schema, _: Schema) -> Json:
    if schema.get("format") == "date-time":
        return _TIMES
    least, most = schema.get("minLength", 0), schema.get("maxLength", LONGEST_TEXT)
    if "pattern" not in schema:
        return st.text(min_size=least, max_size=min(most, LONGEST_TEXT))
    return _matching(schema["pattern"]).filter(lambda text: least <= len(text) <= most)


def _matching(pattern: str) -> Json:
    # In Python `$` also matches before a line break at the end, elsewhere it does not.
    return st.from_regex(pattern.removeprefix("^").removesuffix("$"), fullmatch=True)


def _integers(schema: Schema, _: Schema) -> Json:
    least, most = DEFAULT_INTEGERS
    return st.integers(schema.get("minimum", least), schema.get("maximum", most))


def _numbers(schema: Schema, _: Schema) -> Json:
    least, most = DEFAULT_NUMBERS
    return st.floats(schema.get("minimum", least), schema.get("maximum", most))


def _booleans(_: Schema, __: Schema) -> Json:
    return st.booleans()


def _arrays(schema: Schema, definitions: Schema) -> Json:
    keys = schema.get("x-kubernetes-list-map-keys")
    return st.lists(
        _values(schema["items"], definitions),
        min_size=schema.get("minItems", 0),
        max_size=min(schema["maxItems"], MOST_ITEMS),
        unique_by=(lambda item: tuple(item[key] for key in keys)) if keys else None,
    )


def _objects(schema: Schema, definitions: Schema) -> Json:
    if "properties" not in schema:
        return _maps(schema, definitions)
    every = {key: _values(each, definitions) for key, each in schema["properties"].items()}
    required = {key: every.pop(key) for key in schema.get("required", ())}
    return st.fixed_dictionaries(required, optional=every)


def _maps(schema: Schema, definitions: Schema) -> Json:
    ((pattern, values),) = schema["patternProperties"].items()
    most = schema["propertyNames"]["maxLength"]
    keys = _matching(pattern).filter(lambda key: len(key) <= most)
    return st.dictionaries(keys, _values(values, definitions), max_size=MOST_ITEMS)


_TIMES = st.integers(946_684_800, 4_102_444_800).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC).isoformat()
)
_TYPES = {
    "string": _strings,
    "integer": _integers,
    "number": _numbers,
    "boolean": _booleans,
    "array": _arrays,
    "object": _objects,
}
