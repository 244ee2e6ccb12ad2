"""The launcher as one file that any Python can start."""

from __future__ import annotations

import zipfile
from pathlib import Path

_MAIN = "from lepton_launcher.__main__ import main\n\nraise SystemExit(main())\n"
_OLDEST_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def write_zipapp(path: str | Path) -> None:
    """Write this package as an executable zip archive; equal sources give equal bytes.

    The entries are stored, not deflated: compressed bytes differ between versions of zlib.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "__main__.py", _MAIN.encode())
        for source in sources:
            _add(archive, f"lepton_launcher/{source.name}", source.read_bytes())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _OLDEST_ZIP_TIME)
    entry.create_system = 3  # Unix, wherever it is written
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
