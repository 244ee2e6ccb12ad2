"""The door's PID 1 as a process of its own, with services that stand in a file.

python static_door.py FILE, which holds `settings`, `services` (name -> port) and `upstreams`
(address -> health).
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from images.door.bootstrap import bootstrap
from images.door.door import Door
from images.door.settings import Settings
from tests.door.services import static

given = json.loads(Path(sys.argv[1]).read_text())
given["settings"]["certificates"] = Path(given["settings"]["certificates"])
configuration = (
    partial(static, given["services"], given["upstreams"]) if given["services"] else bootstrap
)
sys.exit(Door(Settings(**given["settings"]), configuration).run())
