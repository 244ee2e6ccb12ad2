from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lepton_operator import crds
from lepton_operator.schema import SchemaError, structural

ROOT = Path(__file__).parents[3]
FOLDERS = (ROOT / "crds", ROOT / "charts/lepton-operator/files/crds")


def test_the_generated_files_are_current() -> None:
    assert crds.outdated(FOLDERS) == []


def test_a_changed_model_is_noticed(tmp_path: Path) -> None:
    crds.write([tmp_path])
    (tmp_path / "trainingjobs.yaml").write_text("kind: Something\n")
    assert crds.outdated([tmp_path]) == [tmp_path / "trainingjobs.yaml"]


@pytest.mark.parametrize("definition", crds.DEFINITIONS, ids=lambda each: each.kind)
def test_kubectl_explain_has_a_sentence_for_every_field_of_the_spec(
    definition: crds.Definition,
) -> None:
    root = crds.document(definition)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    silent = [
        path
        for path, node in _fields(root["properties"]["spec"], "spec")
        if not node.get("description") and path.count(".") == 1 and not path.endswith("[]")
    ]
    assert silent == []


@pytest.mark.parametrize("definition", crds.DEFINITIONS, ids=lambda each: each.kind)
def test_every_string_list_and_map_of_the_spec_is_bounded(definition: crds.Definition) -> None:
    root = crds.document(definition)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    unbounded = [
        path for path, node in _fields(root["properties"]["spec"], "spec") if not _is_bounded(node)
    ]
    assert unbounded == []


def test_a_union_is_refused() -> None:
    class Union(BaseModel):
        field: int | list[str]

    with pytest.raises(SchemaError, match="a union in"):
        structural(Union.model_json_schema())


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
