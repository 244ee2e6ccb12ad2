from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lepton_operator import crds, reference
from lepton_operator.schema import SchemaError, structural

ROOT = Path(__file__).parents[3]
FOLDERS = (ROOT / "crds", ROOT / "charts/lepton-operator/files/crds")


def test_the_generated_files_are_current() -> None:
    assert crds.outdated(FOLDERS) == []


def test_the_reference_is_current() -> None:
    assert reference.is_current(ROOT / "docs/reference.md")


def test_the_reference_tells_every_field_and_every_sentence_of_refusal() -> None:
    page = reference.rendered()
    for definition in crds.DEFINITIONS:
        root = _schema(definition)
        for part in ("spec", "status"):
            for path, node in _fields(root["properties"][part], part):
                assert path == part or path.endswith("[]") or node["description"] in page
        for rule in root["properties"]["spec"].get("x-kubernetes-validations", ()):
            assert f"\n{rule['message']}\n" in page


def test_a_changed_model_is_noticed(tmp_path: Path) -> None:
    crds.write([tmp_path])
    (tmp_path / "trainingjobs.yaml").write_text("kind: Something\n")
    assert crds.outdated([tmp_path]) == [tmp_path / "trainingjobs.yaml"]


@pytest.mark.parametrize("definition", crds.DEFINITIONS, ids=lambda each: each.kind)
@pytest.mark.parametrize("part", ["spec", "status"])
def test_kubectl_explain_has_a_sentence_for_every_field(
    definition: crds.Definition, part: str
) -> None:
    silent = [
        path
        for path, node in _fields(_schema(definition)["properties"][part], part)
        if not node.get("description") and not path.endswith("[]")
    ]
    assert silent == []


def test_kubectl_explain_tells_the_default_and_the_range_which_it_leaves_out_itself() -> None:
    fields = _schema(crds.DEFINITIONS[0])["properties"]["spec"]["properties"]
    assert fields["numNodes"]["description"].endswith(" Default: 1. From 1 to 4096.")
    assert fields["numProcPerNode"]["description"].endswith(" Default: auto.")
    assert fields["suspend"]["description"].endswith(" Default: false.")
    policy = fields["failurePolicy"]["properties"]["maxRestarts"]["description"]
    assert policy.endswith(" Default: 3. From 0 to 1000.")


@pytest.mark.parametrize("definition", crds.DEFINITIONS, ids=lambda each: each.kind)
@pytest.mark.parametrize("part", ["spec", "status"])
def test_every_string_list_and_map_is_bounded(definition: crds.Definition, part: str) -> None:
    fields = _fields(_schema(definition)["properties"][part], part)
    assert [path for path, node in fields if not _is_bounded(node)] == []


@pytest.mark.parametrize("definition", crds.DEFINITIONS, ids=lambda each: each.kind)
def test_every_number_of_the_spec_is_bounded_on_both_sides(definition: crds.Definition) -> None:
    fields = _fields(_schema(definition)["properties"]["spec"], "spec")
    numbers = [(path, node) for path, node in fields if node.get("type") == "integer"]
    assert [path for path, node in numbers if not {"minimum", "maximum"} <= node.keys()] == []


def test_a_union_is_refused() -> None:
    class Union(BaseModel):
        field: int | list[str]

    with pytest.raises(SchemaError, match="a union in"):
        structural(Union.model_json_schema())


def _schema(definition: crds.Definition) -> dict[str, Any]:
    document = crds.document(definition)
    root: dict[str, Any] = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return root


def _fields(node: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    found = [(path, node)]
    for name, child in node.get("properties", {}).items():
        found += _fields(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            found += _fields(node[key], f"{path}[]")
    return found


def _is_bounded(node: dict[str, Any]) -> bool:
    bound = {"string": "maxLength", "array": "maxItems"}.get(node.get("type", ""))
    if "additionalProperties" in node:
        bound = "maxProperties"
    return bound is None or bound in node or "enum" in node or node.get("format") == "date-time"
