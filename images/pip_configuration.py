"""The building machine's own pip configuration, handed to the builds and to no image."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

MOUNTED_AT = "/run/lepton-build"
_NETWORK = {
    "client-cert",
    "default-timeout",
    "extra-index-url",
    "index-url",
    "no-index",
    "proxy",
    "retries",
    "timeout",
    "trusted-host",
}
"""How packages are reached. The rest (user, target, local folders) is this machine's business."""


def write(folder: Path) -> None:
    """Write `pip.conf`, and the certificates that it names, into the folder to be mounted.

    The certificates cannot lie where the image has its own: a mount there would break the
    installation of Debian's ca-certificates.
    """
    settings = _settings()
    configuration = {key: settings[key] for key in sorted(_NETWORK & settings.keys())}
    certificates = settings.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE")
    if certificates and Path(certificates).is_file():
        shutil.copyfile(certificates, folder / "ca.crt")
        configuration["cert"] = f"{MOUNTED_AT}/ca.crt"
    configuration["no-cache-dir"] = (
        "true"  # wheels would lie in the image; its layers are the cache
    )
    parser = configparser.RawConfigParser()
    parser["global"] = configuration
    with (folder / "pip.conf").open("w") as file:
        parser.write(file)


def _settings() -> dict[str, str]:
    """By key. Where several places set one, pip lists the one that holds under `:env:`."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, str] = {}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", "\n")
    return found
