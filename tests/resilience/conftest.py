"""One control plane and one operator for all runs, and the count of the kill points at the end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.resilience import plane as planes
from tests.resilience.harness import Harness
from tests.resilience.laboratory import Laboratory
from tests.resilience.plane import Plane
from tests.resilience.scenarios import SCENARIOS


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plane]:
    async with planes.running(tmp_path_factory.mktemp("plane")) as found:
        yield found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def laboratory(plane: Plane) -> AsyncIterator[Laboratory]:
    """The last line that it prints is {scenario: {"points", "equal"}}, of all kill points tried."""
    async with plane.operator() as (operator, proxy):
        found = Laboratory(Harness(plane, operator, proxy))
        yield found
    for scenario in SCENARIOS:
        for fault in found.absent(scenario):
            print(
                f"\nnot tried, its write was not made in three runs: {scenario.name}: {fault}",
                end="",
            )
    print(f"\n{json.dumps(found.tally())}")
