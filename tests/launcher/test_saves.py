"""What a plain script saves by itself counts as progress: looks at folders, and real processes."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lepton_launcher import saves
from lepton_launcher.records import with_spent
from lepton_launcher.restarts import Restarts
from lepton_launcher.saves import Saves, place_in

from .conftest import ATTEMPT, wait_until

if TYPE_CHECKING:
    from .conftest import Pod

FAILED = {"outcome": "Failed", "reason": "UserError", "message": "boom", "rank": 0, "exitCode": 1}


def looks(folder: Path, *contents: dict[str, str], loads: bool = False) -> list[int]:
    """How many files count after each look; before it, these files are written."""
    found, told = Saves(str(folder)), []
    found.begin(lambda: loads)
    found.look(0)
    for number, files in enumerate(contents, start=1):
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        found.look(10 * number)
        told.append(found.count)
    return told


def test_a_file_is_complete_when_it_has_stopped_growing(tmp_path: Path) -> None:
    growing: tuple[dict[str, str], ...] = (
        {"epoch-1/model.pt": "a"},
        {"epoch-1/model.pt": "ab"},
        {},
        {},
    )
    assert looks(tmp_path, *growing) == [0, 0, 1, 1]


def test_a_file_that_is_written_anew_is_another_one(tmp_path: Path) -> None:
    assert looks(tmp_path, {"last.pt": "a"}, {}, {"last.pt": "abc"}, {}) == [0, 1, 1, 2]


def test_what_is_there_before_the_ranks_begin_is_not_theirs(tmp_path: Path) -> None:
    (tmp_path / "old.pt").write_text("a")
    assert looks(tmp_path, {}, {}, {"new.pt": "b"}, {}, loads=True) == [0, 0, 0, 1]


def test_where_something_lay_what_was_saved_counts_only_if_it_was_loaded(tmp_path: Path) -> None:
    (tmp_path / "old.pt").write_text("a")
    assert looks(tmp_path, {"new.pt": "b"}, {}) == [0, 0]


def test_an_empty_file_is_no_checkpoint(tmp_path: Path) -> None:
    assert looks(tmp_path, {"lock": ""}, {}, {}) == [0, 0, 0]


def test_a_file_that_replaces_another_whole_counts(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_text("old")
    found = Saves(str(tmp_path))
    found.begin(lambda: True)
    found.look(0)
    (tmp_path / "last.pt.tmp").write_text("newer")
    (tmp_path / "last.pt.tmp").replace(tmp_path / "last.pt")
    found.look(10)
    found.look(20)
    assert (found.count, found.saved_at) == (1, 10)


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "big").write_text("x")
    (tmp_path / "place" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "place" / "itself").symlink_to(tmp_path / "place")
    os.mkfifo(tmp_path / "place" / "pipe")
    assert looks(tmp_path / "place", {}, {}) == [0, 0]


def test_a_place_that_cannot_be_read_for_a_while_makes_nothing_new(tmp_path: Path) -> None:
    place, aside = tmp_path / "place", tmp_path / "aside"
    place.mkdir()
    (place / "old.pt").write_text("a")
    found = Saves(str(place))
    found.look(0)
    place.rename(aside)
    found.look(10)
    aside.rename(place)
    found.look(20)
    found.look(30)
    assert found.count == 0


def test_a_look_is_bounded_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(saves, "MOST_ENTRIES", 20)
    for number in range(100):
        (tmp_path / str(number)).write_text("x")
    assert looks(tmp_path, {}, {}) == [0, 0]
    assert capfd.readouterr().err.count("more than 20 files") == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({}, None, id="no place"),
        pytest.param({"LEPTON_CHECKPOINT_URI": "s3://bucket/run"}, None, id="no folder"),
        pytest.param({"LEPTON_CHECKPOINT_URI": "file:///a%20b"}, "/a b", id="a folder"),
    ],
)
def test_the_place_is_the_folder_that_the_job_declares(
    environment: dict[str, str], expected: str | None
) -> None:
    assert place_in(environment) == expected


def test_of_a_shared_volume_only_the_job_s_own_folder_counts_if_it_has_one(tmp_path: Path) -> None:
    environment = {"LEPTON_CHECKPOINT_URI": tmp_path.as_uri(), "LEPTON_RUN_UID": "uid-1"}
    assert place_in(environment) == str(tmp_path)
    (tmp_path / "uid-1").mkdir()
    assert place_in(environment) == str(tmp_path / "uid-1")


# --- what follows


def test_restarts_after_a_save_are_free_where_no_step_is_known() -> None:
    counts = iter([0, 1, 2, 2, 2, 2])
    restarts = Restarts(1, saves=lambda: next(counts))
    delays = [restarts.delay_seconds(number, FAILED, -1) for number in range(4)]
    assert delays == [0, 0, 0, None]
    assert restarts.spent == {"restarts": 1, "saved": True}


def test_saves_count_nothing_where_steps_are_known() -> None:
    counts = itertools.count()
    restarts = Restarts(1, furthest=10, saves=lambda: next(counts))
    delays = [restarts.delay_seconds(number, FAILED, 10) for number in range(3)]
    assert delays == [0, None, None]
    assert "saved" not in with_spent({**FAILED, "furthest": 10}, restarts.spent)


SAVES_AND_DIES = """
import os, pathlib, sys, time
place = pathlib.Path(os.environ["PLACE"])
(place / "log").open("a").close()
epoch = 1 + sum(each.read_text() == "weights" for each in place.glob("*.pt"))
print("epoch", epoch, flush=True)
if epoch < 4:
    (place / f"{epoch}.pt").write_text("weights")
time.sleep(1.5)
sys.exit(3)
"""
# The launcher as the pod starts it, but looking oftener.
OFTENER = """
import runpy, sys
sys.path.insert(0, sys.argv[2])
from lepton_launcher import saves
saves.LOOK_SECONDS = 0.2
from lepton_launcher.__main__ import main
sys.exit(main(sys.argv[3:]))
"""


@pytest.fixture
def oftener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """What the launcher runs through to look oftener; its script finds the place in PLACE."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setenv("PLACE", str(place))
    monkeypatch.setenv("LEPTON_CHECKPOINT_URI", place.as_uri())
    through = tmp_path / "oftener.py"
    through.write_text(OFTENER)
    return "python3", str(through)


def test_a_plain_script_that_saves_is_started_again_for_free(
    pod: Pod, oftener: tuple[str, str]
) -> None:
    script = pod.script(SAVES_AND_DIES)
    begun = time.monotonic()
    pod.run(script, options=("--max-restarts", "1"), through=oftener).begin().agree()
    message = pod.message()
    assert (message["exitCode"], message["restarts"], message["saved"]) == (3, 1, True)
    assert pod.stdout.decode().split("\n")[:-1] == [f"epoch {each}" for each in (1, 2, 3, 4, 4)]
    told = json.loads((pod.exchange / "progress.json").read_bytes())
    assert (told["saved"], told["countedRestarts"]) == (True, 1)
    assert 0 < told["checkpoint"]["ageSeconds"] < time.monotonic() - begun
    assert "step" not in told["checkpoint"]


SAVES_AND_NEVER_LOADS = """
import os, pathlib, sys, time
place = pathlib.Path(os.environ["PLACE"])
print("begun", flush=True)
saved = place / f"{time.time()}.pt"
(place / "unfinished").write_text("weights")
(place / "unfinished").replace(saved)
assert saved.read_text() == "weights"
time.sleep(1.5)
sys.exit(3)
"""


def test_a_plain_script_that_never_loads_what_it_saves_gets_no_further(
    pod: Pod, oftener: tuple[str, str]
) -> None:
    script = pod.script(SAVES_AND_NEVER_LOADS)
    pod.run(script, options=("--max-restarts", "2"), through=oftener).begin().agree()
    message = pod.message()
    # The first start had nothing to load.
    assert (message["restarts"], message["saved"]) == (2, True)
    assert pod.stdout.split() == [b"begun"] * 4


def test_a_pod_that_begins_where_others_have_saved_gets_no_further_without_loading(
    pod: Pod, oftener: tuple[str, str]
) -> None:
    Path(os.environ["PLACE"], "old.pt").write_text("weights")
    script = pod.script(SAVES_AND_NEVER_LOADS)
    pod.run(script, options=("--max-restarts", "1"), through=oftener).begin().agree()
    message = pod.message()
    assert (message["restarts"], message.get("saved")) == (1, None)
    assert pod.stdout.split() == [b"begun"] * 2


SAVES_IN_THE_FIRST_ATTEMPT = """
import os, pathlib, time
if os.environ["LEPTON_ATTEMPT"] == "1":
    pathlib.Path(os.environ["PLACE"], "1.pt").write_text("weights")
    time.sleep(3600)
time.sleep(1.5)
"""


def test_what_an_attempt_saved_is_not_told_of_the_next_one(
    pod: Pod, oftener: tuple[str, str]
) -> None:
    def told() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((pod.exchange / "progress.json").read_bytes())
        return found

    pod.run(pod.script(SAVES_IN_THE_FIRST_ATTEMPT), through=oftener).begin()
    wait_until((pod.exchange / "progress.json").exists, "its first word")
    wait_until(lambda: told().get("saved"), "the file")
    pod.attempt_file.write_text(json.dumps({**ATTEMPT, "attempt": 2, "port": 29402}))
    assert pod.record()["outcome"] == "Succeeded"
    assert told()["attempt"] == 2
    assert "saved" not in told()
    assert "checkpoint" not in told()
    pod.agree()
