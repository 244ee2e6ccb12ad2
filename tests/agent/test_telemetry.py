"""What a sidecar tells over HTTP, and that it keeps the stacks of ranks that hung."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.agent.pods import UID, SidecarPod, sidecar, wait_until
from tests.agent.stores import StoreUnderTest

PROGRESS: dict[str, Any] = {
    "attempt": 2,
    "generation": 1,
    "phase": "training",
    "step": 120,
    "totalSteps": 1000,
    "stepSeconds": 0.25,
    "metrics": {"loss": 0.5, 'learning "rate"': 0.001},
    "learningRate": 0.0625,
    "samples": 3840,
    "resumedFrom": 50,
    "furthest": 120,
    "countedRestarts": 2,
    "checkpoint": {"step": 100, "ageSeconds": 5.0, "seconds": 1.5},
    "ranks": [
        {"rank": 4, "step": 121, "silentSeconds": 0.1, "ownSeconds": 0.2},
        {"rank": 5, "step": 120, "silentSeconds": 0.3, "ownSeconds": 0.1},
    ],
    "earlier": [{"attempt": 1, "ledger": {"hang": 4.5}}],
    "slow": {"rank": 4, "node": 2, "factor": 1.97},
    "ledger": {"start": 3.5, "productive": 30.0},
}
HANG = {"outcome": "Failed", "reason": "Hang", "message": "Rank 3 hangs.", "rank": 3, "step": 7}


def leave(pod: SidecarPod, content: Any, *, age_seconds: float = 0) -> None:
    unfinished = pod.folder / "exchange" / ".progress.json"
    unfinished.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    written = time.time() - age_seconds
    os.utime(unfinished, (written, written))
    unfinished.rename(pod.folder / "exchange" / "progress.json")


def answer(pod: SidecarPod, path: str) -> tuple[int, str]:
    def asked() -> tuple[int, str] | None:
        try:
            return 200, pod.get(path)
        except HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return None

    found: tuple[int, str] = wait_until(asked, f"an answer to GET {path}")
    return found


def test_progress_is_told_as_it_was_written(folder_store: StoreUnderTest, tmp_path: Path) -> None:
    with sidecar(folder_store, tmp_path / "pod", model=None) as pod:
        pod.start()
        assert answer(pod, "/progress") == (404, "No rank of this pod has begun yet.\n")
        leave(pod, PROGRESS)
        status, text = answer(pod, "/progress")
    found = json.loads(text)
    assert status == 200
    assert found["checkpoint"].pop("ageSeconds") == pytest.approx(5, abs=3)
    known = {**PROGRESS, "checkpoint": {"step": 100, "seconds": 1.5}}
    assert {name: found[name] for name in known if name != "ranks"} == {
        name: value for name, value in known.items() if name != "ranks"
    }


def test_silence_goes_on_while_nothing_is_written(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    with sidecar(folder_store, tmp_path / "pod", model=None) as pod:
        pod.start()
        begun = time.time()
        leave(pod, PROGRESS, age_seconds=60)
        found = json.loads(answer(pod, "/progress")[1])
    waited = time.time() - begun
    assert 0 <= found["ranks"][0]["silentSeconds"] - 60.1 < waited + 0.1
    assert 0 <= found["checkpoint"]["ageSeconds"] - 65 < waited + 0.1


def test_metrics_are_prometheus_s(folder_store: StoreUnderTest, tmp_path: Path) -> None:
    with sidecar(folder_store, tmp_path / "pod", model=None) as pod:
        pod.start()
        assert answer(pod, "/metrics") == (200, "")
        leave(pod, PROGRESS)
        lines = answer(pod, "/metrics")[1].splitlines()
    for line in (
        'lepton_training_step{training_job="digits"} 120.0',
        'lepton_training_steps{training_job="digits"} 1000.0',
        'lepton_training_phase{phase="training",training_job="digits"} 1.0',
        'lepton_training_metric{metric="loss",training_job="digits"} 0.5',
        'lepton_training_metric{metric="learning \\"rate\\"",training_job="digits"} 0.001',
        'lepton_training_checkpoint_step{training_job="digits"} 100.0',
        'lepton_training_rank_own_seconds{rank="4",training_job="digits"} 0.2',
        'lepton_training_eta_seconds{training_job="digits"} 220.0',
        'lepton_training_learning_rate{training_job="digits"} 0.0625',
        'lepton_training_counted_restarts{training_job="digits"} 2.0',
        'lepton_training_slow_rank_factor{rank="4",training_job="digits"} 1.97',
    ):
        assert line in lines
    names = {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    assert {name.removeprefix("lepton_training_") for name in names} <= names_in_the_docs()


def names_in_the_docs() -> set[str]:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    section = page.partition("## Metrics\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`(\w+)[`{]", section))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        {**PROGRESS, "phase": "resting"},
        {**PROGRESS, "step": -1},
        {**PROGRESS, "metrics": {str(number): 1 for number in range(99)}},
        {**PROGRESS, "ranks": [{"rank": rank} for rank in range(100_000)]},
    ],
    ids=range(9),
)
def test_what_a_script_forges_is_no_progress(
    folder_store: StoreUnderTest, tmp_path: Path, content: Any
) -> None:
    with sidecar(folder_store, tmp_path / "pod", model=None) as pod:
        pod.start()
        leave(pod, content)
        assert answer(pod, "/progress")[0] == 404
        assert answer(pod, "/metrics") == (200, "")
        assert answer(pod, "/elsewhere")[0] == 404


def test_whom_the_gang_lost_is_told_and_for_how_long(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    lost = {"node": 1, "message": "Node 1's launcher was not heard for 10 s.", "seconds": 10.0}
    with sidecar(folder_store, tmp_path / "pod", model=None) as pod:
        pod.start()
        begun = time.time()
        leave(pod, {**PROGRESS, "lost": lost}, age_seconds=20)
        told = json.loads(answer(pod, "/progress")[1])["lost"]
        assert (told["node"], told["message"]) == (1, lost["message"])
        assert 29 < told["seconds"] < 31 + time.time() - begun


def test_stacks_are_in_the_store_and_the_record_says_where(
    any_store: StoreUnderTest, tmp_path: Path
) -> None:
    with sidecar(any_store, tmp_path / "pod", attempt=2, rank=1, model=None) as pod:
        pod.start()
        folder = pod.folder / "exchange" / "stacks"
        folder.mkdir()
        for name in (
            "2-0-2.txt",
            "2-0-3.txt",
            "2-1-3.txt",
            "2-1-3.flight.json",
            "theirs.txt",
        ):
            (folder / name).write_text(f"stacks {name}")
        pod.end({**HANG, "stacks": "2-1-3.txt"})
        answered = pod.answer()
        key = f"runs/{UID}/stacks/2-1-3.txt"
        assert answered == {**HANG, "stacks": key}
        store = any_store.open()
        assert store.get(key) == b"stacks 2-1-3.txt"
        wait_until(lambda: len(store.paths_below(f"runs/{UID}/stacks")) == 4, "the others")


@pytest.mark.parametrize("name", ["../../../etc/passwd", "1-0-4.txt", "x"])
def test_stacks_that_are_not_there_are_not_named(
    folder_store: StoreUnderTest, tmp_path: Path, name: str
) -> None:
    with sidecar(folder_store, tmp_path / "pod", rank=1, model=None) as pod:
        pod.start()
        pod.end({**HANG, "stacks": name})
        assert pod.answer() == HANG
    assert folder_store.open().paths_below(f"runs/{UID}/stacks") == []


def test_a_link_that_a_script_planted_is_not_followed(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("what the script may not read")
    with sidecar(folder_store, tmp_path / "pod", rank=1, model=None) as pod:
        pod.start()
        (pod.folder / "exchange" / "stacks").mkdir()
        (pod.folder / "exchange" / "stacks" / "1-0-3.txt").symlink_to(secret)
        pod.end({**HANG, "stacks": "1-0-3.txt"})
        assert pod.answer() == HANG
    assert folder_store.open().paths_below(f"runs/{UID}/stacks") == []
