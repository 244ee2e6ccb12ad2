"""What kstatus, the library of kpt and Flux, takes an object for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from e2e.cluster import tool


def kstatus(found: Mapping[str, Any] | None) -> str:
    """Return InProgress, Failed, Current, Terminating or Unknown."""
    done = subprocess.run(
        [tool("kstatus")], input=json.dumps(found), capture_output=True, text=True, check=True
    )
    return str(json.loads(done.stdout)["status"])
