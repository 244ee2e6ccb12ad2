"""What a script saves by itself: new files in its checkpoint place that have stopped growing.

Where something lay there when the ranks began, they are progress only if the script loaded from
there: one that saves and never loads gets no further, however often it saves.

Names, sizes and times alone are looked at, of so many files at most, and in a thread: a volume of
the network's may not answer for minutes.
"""

from __future__ import annotations

import itertools
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from lepton_launcher.speech import say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LOOK_SECONDS = 10.0
MOST_ENTRIES = 5000


class Form(NamedTuple):
    """What a file looks like from outside."""

    size: int
    modified: int  # by the clock of whoever keeps the file: only compared with itself


class Saves:
    """The files that were completed in a folder since the first look; without a folder, none.

    `count` is how many of them were progress, `is_further` whether any was in this attempt.
    """

    def __init__(self, folder: str | None) -> None:
        self.count = 0
        self.is_further = False
        self.saved_at: float | None = None
        """When the last one got its last byte, as near as the looks tell (monotonic seconds)."""
        self._folder = folder
        self._done: dict[str, Form] | None = None
        self._before: dict[str, Form] = {}
        self._looked_at = 0.0
        self._lay_there: bool | None = None
        self._has_loaded: Callable[[], bool] = lambda: False
        self._is_over = threading.Event()
        self._is_cut = False

    def watch(self) -> None:
        """Look each ten seconds, for ever; what is there before the ranks begin is not theirs."""
        if self._folder is not None:
            threading.Thread(target=self._look_for_ever, name="saves", daemon=True).start()

    def stop(self) -> None:
        """Look no more: the script tells its checkpoints itself."""
        self._is_over.set()

    def begin_anew(self) -> None:
        """Another attempt begins, which has saved nothing yet; the count goes on."""
        self.saved_at = None
        self.is_further = False

    def begin(self, has_loaded: Callable[[], bool]) -> None:
        """Ranks begin, which tell by this whether they loaded what lay there."""
        self._has_loaded = has_loaded
        self._lay_there = None if self._done is None else _any_content(self._before)

    def look(self, now: float) -> None:
        """Look once. A file is complete when two looks see the same of it."""
        found = self._scan()
        if found is None:
            return
        if self._done is None:
            self._done = found
            self._lay_there = _any_content(found)
        complete = {
            path: form
            for path, form in found.items()
            if form.size and self._before.get(path) == form and self._done.get(path) != form
        }
        if complete:
            self.saved_at = self._looked_at
        if complete and (not self._lay_there or self._has_loaded()):
            self.count += len(complete)
            self.is_further = True
        self._done = {path: form for path, form in self._done.items() if path in found} | complete
        self._before, self._looked_at = found, now

    def _look_for_ever(self) -> None:
        while True:
            self.look(time.monotonic())
            if self._is_over.wait(LOOK_SECONDS):
                return

    def _scan(self) -> dict[str, Form] | None:
        """The files below the folder; None if it cannot be read now."""
        found: dict[str, Form] = {}
        entries, left = _entries(self._folder or ""), MOST_ENTRIES
        if entries is None:
            return None
        while entries:
            left -= 1
            if left < 0:
                self._say_that_it_is_cut()
                break
            entry = entries.pop()
            if _is_folder(entry):
                entries += _entries(entry.path) or []
            elif (form := _form(entry)) is not None:
                found[entry.path] = form
        return found

    def _say_that_it_is_cut(self) -> None:
        if not self._is_cut:
            self._is_cut = True
            say(
                f"{self._folder} holds more than {MOST_ENTRIES} files: of the others it is not "
                "seen whether they are complete"
            )


def _any_content(files: Mapping[str, Form]) -> bool:
    return any(form.size for form in files.values())


def _entries(folder: str) -> list[os.DirEntry[str]] | None:
    try:
        with os.scandir(folder) as found:
            return list(itertools.islice(found, MOST_ENTRIES + 1))
    except OSError:
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _form(entry: os.DirEntry[str]) -> Form | None:
    """A file's form; None of what is no file, or is gone by now."""
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    return Form(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def place_in(environment: Mapping[str, str]) -> str | None:
    """The folder that the job declares for its checkpoints: its own in there, if it made one."""
    place = urlsplit(environment.get("LEPTON_CHECKPOINT_URI", ""))
    if place.scheme != "file":
        return None
    folder, run = unquote(place.path), environment.get("LEPTON_RUN_UID", "")
    own = os.path.join(folder, run)  # noqa: PTH118 - as scandir, without a Path for each file
    return own if run and os.path.isdir(own) else folder  # noqa: PTH112
