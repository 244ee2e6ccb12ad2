"""python -m images.door: PID 1 of a door's pod."""

from __future__ import annotations

import os
import sys

from images.door import settings
from images.door.door import Door
from images.door.errors import DoorError


def main() -> int:
    try:
        return Door(settings.read(os.environ)).run()
    except DoorError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
