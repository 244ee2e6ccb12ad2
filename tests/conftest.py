"""What all tests share: golden files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

# How long an example takes says more about the machine's load than about the code. The same
# examples each time: what a change broke fails with it, and not days later, by chance. Others are
# tried with --hypothesis-profile=others.
settings.register_profile(
    "others", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("untimed", settings.get_profile("others"), derandomize=True)
settings.load_profile("untimed")

GOLDEN_FOLDER = Path(__file__).parent / "golden"

Golden = Callable[[str, Any], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write what the golden tests found"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a whole value with tests/golden/NAME.yaml; the file's diff is the review."""
    update = request.config.getoption("--update-golden")

    def compare(name: str, value: Any) -> None:
        file = GOLDEN_FOLDER / f"{name}.yaml"
        if update:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
        assert yaml.safe_load(file.read_text()) == value

    return compare
