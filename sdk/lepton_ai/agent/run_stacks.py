"""Where the ranks stood when they hung: their stacks and torch's flight record, into the store."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lepton_ai.store import NoStoreError, Store, StoreUnavailableError

FOLDER = "stacks"
MAX_FILES = 128
MAX_BYTES = 4 * 1024 * 1024  # a flight record's; stacks are shorter
LOOK_SECONDS = 1.0

# The attempt, the generation and the rank.
_NAME = re.compile(r"\d{1,9}-\d{1,6}-\d{1,7}\.(txt|flight\.json)")

logger = logging.getLogger(__name__)


@dataclass
class RunStacks:
    """The stacks of one pod, which names them by attempt; equal names are kept once."""

    exchange: Path
    uid: str
    open_store: Callable[[], Store]
    _kept: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep_in_background(self) -> None:
        """Keep what appears, until the process ends."""
        threading.Thread(target=self._keep_each, name=FOLDER, daemon=True).start()

    def keep(self, name: str) -> str | None:
        """Return the store's key of a file that the launcher named; None if it is not kept."""
        if not _NAME.fullmatch(name):
            return None
        with self._lock:
            return self._key(name) if name in self._kept or self._store(name) else None

    def _keep_each(self) -> None:
        never = threading.Event()
        while not never.wait(LOOK_SECONDS):
            names = sorted(each.name for each in (self.exchange / FOLDER).glob("*"))
            for name in filter(_NAME.fullmatch, names):
                if name not in self._kept and self.keep(name) is None:
                    break

    def _store(self, name: str) -> bool:
        if len(self._kept) >= MAX_FILES:
            return False
        try:
            # A script may have put a link there, to what it cannot read itself.
            opened = os.open(self.exchange / FOLDER / name, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(opened, "rb") as file:
                self.open_store().put_new(self._key(name), file.read(MAX_BYTES))
        except (OSError, NoStoreError, StoreUnavailableError) as error:
            logger.info("The stacks %s are not stored: %s", name, error)
            return False
        self._kept.add(name)
        return True

    def _key(self, name: str) -> str:
        return f"runs/{self.uid}/stacks/{name}"
