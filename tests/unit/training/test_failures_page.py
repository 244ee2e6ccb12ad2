"""docs/failures.md lists the rules as they are: `pytest --update-golden` writes its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_operator.api.training import Cause
from lepton_operator.training.causes import TRAITS
from lepton_operator.training.rules import RULES

PAGE = Path(__file__).parents[3] / "docs" / "failures.md"
END = "<!-- end of rules -->"


def table() -> str:
    rows = ["| class | when | budget | what follows |", "|---|---|---|---|"]
    for rule in RULES:
        trait = TRAITS[rule.cause]
        rows.append(f"| {rule.cause} | {rule.when} | {trait.budget or 'none'} | {trait.action} |")
    return "\n".join(rows)


def test_the_page_lists_the_rules_as_they_are(request: pytest.FixtureRequest) -> None:
    before, _, rest = PAGE.read_text().partition("<!-- rules: ")
    comment, _, rest = rest.partition("-->\n")
    found, _, after = rest.partition(END)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(f"{before}<!-- rules: {comment}-->\n{table()}\n{END}{after}")
        found = f"{table()}\n"
    assert found == f"{table()}\n"


def test_every_class_has_a_rule_that_finds_it_and_says_what_follows() -> None:
    assert {rule.cause for rule in RULES} == {*Cause} == {*TRAITS}
