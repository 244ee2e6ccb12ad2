"""buildah: the builder and the storage of the images on this machine."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from e2e.cluster.progress import Progress
from images.errors import ImageError

_REPORT_SECONDS = 10.0


@dataclass(frozen=True)
class Stored:
    """An image in buildah's storage that has a name."""

    reference: str
    created: datetime


@dataclass(frozen=True)
class Build:
    """One `buildah bud`."""

    reference: str
    context: Path
    dockerfile: Path
    arguments: Mapping[str, str]
    mounts: Mapping[Path, str]
    """Folders of this machine, and where the build sees them. None stays in the image."""

    def argv(self) -> list[str]:
        """With a parent's death signal: a build whose caller was killed must not go on unseen."""
        options = ["--layers", "--isolation=chroot", "--network=host", "--pull=missing"]
        options += [f"--build-arg={name}={value}" for name, value in self.arguments.items()]
        options += [f"--volume={folder}:{inside}" for folder, inside in self.mounts.items()]
        return [
            "setpriv",
            "--pdeathsig=TERM",
            "buildah",
            "bud",
            *options,
            "--tag",
            self.reference,
            "--file",
            str(self.dockerfile),
            str(self.context),
        ]


def stored(prefix: str) -> list[Stored]:
    """Every named image whose reference starts with the prefix."""
    return [
        Stored(name, datetime.fromisoformat(image["createdatraw"]))
        for image in _listed("images")
        for name in image.get("names") or ()
        if name.startswith(prefix)
    ]


def storage() -> Path:
    """The folder of buildah's storage, which all its callers on this machine share."""
    told = subprocess.run(["buildah", "info"], capture_output=True, check=True).stdout
    return Path(json.loads(told)["store"]["GraphRoot"])


def build(asked: Build, log: Path, report: Progress) -> None:
    """Run the build to its end; `report` gets each of its steps, and every 10 s where it is."""
    with log.open("w") as output:
        process = subprocess.Popen(asked.argv(), stdout=output, stderr=subprocess.STDOUT)
    try:
        for line in _steps(process, log):
            report(line)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode != 0:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise ImageError(
            f"Building {asked.reference} failed. The whole output is in {log}, which ends with:\n"
            + last
        )


def remove(references: Iterable[str]) -> list[str]:
    """Remove what nothing else stands on; the references that are gone."""
    return [
        reference
        for reference in references
        if subprocess.run(
            ["buildah", "rmi", reference], capture_output=True, check=False
        ).returncode
        == 0
    ]


def remove_leftovers(parents: Iterable[str]) -> None:
    """Remove the working containers of builds that were killed; to be called with none running.

    A build's container is named after the image it stands on. Those that somebody named are
    somebody's.
    """
    names = re.compile(rf"({'|'.join(parents)})-working-container(-\d+)?")
    for container in _listed("containers"):
        if names.fullmatch(str(container["containername"])):
            subprocess.run(["buildah", "rm", container["id"]], capture_output=True, check=False)


def push(reference: str, destination: str) -> None:
    """Push to a registry (`host/path:tag`), with the credentials of `buildah login`."""
    # As Docker does: a registry on this very machine (kind's, k3d's) speaks plain HTTP.
    local = re.match(r"(localhost|127\.0\.0\.1)[:/]", destination)
    security = ["--tls-verify=false"] if local else []
    ended = subprocess.run(
        ["buildah", "push", *security, reference, f"docker://{destination}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise ImageError(
            f"{destination} could not be pushed: {ended.stderr.strip().splitlines()[-1]} "
            "`buildah login REGISTRY` gives the credentials."
        )


def _steps(process: subprocess.Popen[bytes], log: Path) -> Iterator[str]:
    """Each `STEP i/n: ...` once, and while it takes long its age and its newest line."""
    step, since, said = "", time.monotonic(), time.monotonic()
    while process.poll() is None:
        now = time.monotonic()
        newest, last_line = _state(log)
        if newest != step:
            step, since, said = newest, now, now
            yield step
        elif now - said >= _REPORT_SECONDS:
            said = now
            yield f"{now - since:.0f} s: {last_line}"
        time.sleep(0.2)


def _state(log: Path) -> tuple[str, str]:
    """The step that the build is at, and the last line it wrote."""
    output = log.read_text(errors="replace")
    steps = re.findall(r"^STEP (\d+)/(\d+): (.*)$", output, re.MULTILINE)
    if not steps:
        return "starting", ""
    number, of, instruction = steps[-1]
    return f"step {number} of {of}: {instruction[:60]}", output.splitlines()[-1].strip()[:80]


def _listed(kind: str) -> list[dict[str, Any]]:
    """buildah writes `null` for an empty list."""
    listed = subprocess.run(["buildah", kind, "--json"], capture_output=True, check=True).stdout
    return json.loads(listed or b"null") or []
