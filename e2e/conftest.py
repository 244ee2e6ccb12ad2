"""A cluster for the session, a namespace for each test, and what was there when a test failed."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e import installation
from e2e.chroot import Image, mounted
from e2e.cluster import down
from e2e.cluster.target import Target
from e2e.installation import RELEASE, SYSTEM
from e2e.kubectl import Kubectl, KubectlError
from e2e.operators import OPERATORS
from images.build import build

DUMPED = ("trainingjobs,leptonmodels,inferenceservices", "pods", "events")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cluster", help="work on the embedded cluster of this name, and keep it")


@pytest.fixture(scope="session")
def references() -> dict[str, str]:
    """The images of this checkout, by name; what changed is built."""
    return build()


@pytest.fixture
def image(references: dict[str, str]) -> Iterator[Callable[[str], Image]]:
    """Mounts an image by its name."""
    with ExitStack() as mounts:
        yield lambda name: mounts.enter_context(mounted(references[name]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that any user may read; pytest's own is open to root only."""
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """A cluster of this session's own; or the user's, if it was named on purpose."""
    kept = request.config.getoption("--cluster")
    name = kept or f"test-{os.getpid()}"
    at = installation.target(name)
    try:
        yield at
    finally:
        if at.embedded is not None and not kept:
            down(name)


@pytest.fixture(scope="session")
def installed(target: Target) -> Target:
    """The chart as a user installs it, with the images of this checkout."""
    installation.install(target)
    return target


@pytest.fixture
def bare_namespace(installed: Target, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """A namespace under the `restricted` standard, without an object store."""
    name = _namespace_of(request.node.name)
    kubectl = installation.kubectl(installed, name)
    installation.make_namespace(kubectl, name)
    yield kubectl
    if _failed(request):
        _dump(kubectl)
    kubectl.delete("namespace", name, "--wait=false")


@pytest.fixture
def namespace(bare_namespace: Kubectl) -> Kubectl:
    """A namespace with its bucket, its user and its Secret, and its doors' certificate."""
    installation.give_store(bare_namespace)
    installation.give_door(bare_namespace)
    return bare_namespace


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    setattr(item, f"report_{report.when}", report)
    return report


def _failed(request: pytest.FixtureRequest) -> bool:
    report = getattr(request.node, "report_call", None)
    return report is None or bool(report.failed)


def _namespace_of(test: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", test.lower().removeprefix("test_")).strip("-")
    return f"e2e-{words[:34].strip('-')}-{secrets.token_hex(3)}"


def _dump(kubectl: Kubectl) -> None:
    """Print what a person would look at."""
    folder = Path(os.environ.get("LEPTON_DUMPS", "/tmp/lepton-dumps")) / kubectl.namespace
    folder.mkdir(parents=True, exist_ok=True)
    print(f"\n--- namespace {kubectl.namespace}; logs of its pods in {folder}")
    for kind in DUMPED:
        print(_tried(kubectl, "get", kind, "-o", "wide"))
        (folder / f"{kind.split(',')[0]}.yaml").write_text(
            _tried(kubectl, "get", kind, "-o", "yaml")
        )
    for pod in kubectl.list("pods"):
        name = pod["metadata"]["name"]
        text = _tried(kubectl, "logs", name, "--all-containers", "--prefix")
        (folder / f"{name}.log").write_text(text)
        print("\n".join(text.splitlines()[-15:]))
    system = kubectl.within(SYSTEM)
    log = _tried(system, "logs", "-l", OPERATORS, "--tail=-1")
    (folder / "operator.log").write_text(log)
    print(f"--- operator ({RELEASE})")
    print("\n".join(log.splitlines()[-40:]))


def _tried(kubectl: Kubectl, *arguments: str) -> str:
    try:
        return kubectl.run(*arguments)
    except KubectlError as error:
        return str(error)
