"""Runs inside a door's pod: tells when its services have had so many ready pods each.

`python -c THIS SERVICES PODS [NAME]`: so many services, or the one of that name. It writes a line
before its first look, and then the time (seconds since 1970).
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from images.door.admin import Admin

_LOOK_SECONDS = 0.02
# A look at a thousand services takes Envoy's main thread some milliseconds.
_LOOK_AT_ALL_SECONDS = 0.2


def main(services: int, pods: int, name: str = "") -> None:
    admin = Admin(next(Path("/tmp").glob("door-*/admin.sock")))
    pattern = rf"^cluster\.{re.escape(name) or '[^/]+'}/http\.membership_healthy$"
    print("looking", flush=True)
    while not _have(admin, pattern, services, pods):
        time.sleep(_LOOK_SECONDS if name else _LOOK_AT_ALL_SECONDS)
    print(time.time(), flush=True)


def _have(admin: Admin, pattern: str, services: int, pods: int) -> bool:
    if admin.listeners() < services:
        return False
    return sum(count >= pods for count in admin.stats(pattern).values()) >= services


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
