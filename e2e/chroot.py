"""Programs inside an image of ours as a restricted pod runs them, without a cluster.

An arbitrary user without an entry in /etc/passwd, a read-only root, a mount namespace of its own on
buildah's storage.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.deadlines import DEADLINES_SECONDS

USER = 12345
WRITABLE = "/mnt"
LIMIT_SECONDS = DEADLINES_SECONDS["a program in an image acts"]

_RESTRICTED = """
set -e
if [ -n "$ALONE" ]; then ip link set lo up; fi
mount --bind "$ROOT" "$ROOT"
mount -o remount,bind,ro "$ROOT"
mount --rbind /proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount --bind "$WRITABLE" "$ROOT/mnt"
exec chroot --userspec="$USER_ID:0" --groups=0 "$ROOT" "$@"
"""


@dataclass(frozen=True)
class Image:
    """An image whose file system is mounted on this machine."""

    root: Path
    config: dict[str, Any]

    def start(
        self, writable: Path, *argv: str, alone: bool = False, **pipes: Any
    ) -> subprocess.Popen[str]:
        """Run the arguments as a restricted pod would, with `writable` at /mnt.

        Alone, in a network of its own, for what listens at ports that others may take here, between
        the choice of one and its use too.
        """
        environment = [*self.config["Env"], "HOME=/tmp", "TMPDIR=/tmp"]
        command = ["env", "-i", *environment, *argv]
        outside = {"ROOT": str(self.root), "WRITABLE": str(writable), "USER_ID": str(USER)}
        outside["ALONE"] = "yes" if alone else ""
        own = ("--mount", "--net") if alone else ("--mount",)
        return subprocess.Popen(
            ["unshare", *own, "sh", "-c", _RESTRICTED, "sh", *command],
            env={**os.environ, **outside},
            text=True,
            **pipes,
        )

    def run(
        self,
        *argv: str,
        writable: Path | None = None,
        limit_seconds: float = LIMIT_SECONDS,
        alone: bool = True,
    ) -> str:
        """The output of a command that must succeed; few need this machine's network."""
        process = self.start(
            writable or self.root / "mnt",
            *argv,
            alone=alone,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            output, _ = process.communicate(timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            process.kill()  # it would hold the image's file system, and these cores
            raise
        assert process.returncode == 0, output
        return output.strip()

    def python(self, program: str) -> str:
        return self.run("python", "-c", program)


@contextmanager
def mounted(reference: str) -> Iterator[Image]:
    """Mount an image's file system for as long as the context lasts."""
    container = f"lepton-check-{uuid.uuid4().hex[:8]}"
    _buildah("from", "--name", container, reference)
    try:
        described = json.loads(_buildah("inspect", "--type", "image", reference))
        yield Image(Path(_buildah("mount", container)), described["OCIv1"]["config"])
    finally:
        _buildah("rm", container)


def _buildah(*arguments: str) -> str:
    return subprocess.run(
        ["buildah", *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()
