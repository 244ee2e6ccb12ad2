"""What the documents say that can be held against the repository."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "images/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
README = (ROOT / "README.md").read_text()


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def make_targets(text: str) -> Iterator[str]:
    """Yield what follows `make` in code: between backticks, or at the beginning of a line."""
    yield from re.findall(r"(?:`|^)make ([a-z][a-z-]*)", text, re.MULTILINE)


def test_the_readme_shows_the_manifests_that_the_demo_applies() -> None:
    shown = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert shown
    applied = (ROOT / "examples/digits.yaml").read_text()
    assert list(yaml.safe_load_all(shown[1])) == list(yaml.safe_load_all(applied))


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(make_targets(document.read_text())) <= set(rules)


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_link_into_the_repository_leads_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (document.parent / link).exists()] == []


def test_the_readme_asks_for_a_go_that_builds_every_tool() -> None:
    asked = re.search(r"Go (1\.\d+) or later", README)
    assert asked
    modules = ROOT.glob("e2e/cluster/go/*/go.mod")
    needed = [re.search(r"^go (\d+)\.(\d+)", each.read_text(), re.MULTILINE) for each in modules]
    newest = max((int(each[1]), int(each[2])) for each in needed if each)
    assert tuple(map(int, asked[1].split("."))) == newest
