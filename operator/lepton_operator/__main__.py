"""The command: `python -m lepton_operator`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lepton_operator import crds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    parsed = _parser().parse_args(arguments)
    return int(parsed.command(parsed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lepton-operator", description=__doc__)
    commands = parser.add_subparsers(required=True)
    crd = commands.add_parser("crds", help="write the CustomResourceDefinitions")
    crd.add_argument("folders", nargs="+", type=Path)
    crd.add_argument("--check", action="store_true", help="only say which files are not current")
    crd.set_defaults(command=_crds)
    return parser


def _crds(parsed: argparse.Namespace) -> int:
    if not parsed.check:
        crds.write(parsed.folders)
        return 0
    outdated = crds.outdated(parsed.folders)
    for path in outdated:
        print(f"{path} is not current: run `make crds`", file=sys.stderr)
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
