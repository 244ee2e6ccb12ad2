"""python -m images: build, list and push the container images; fetch the data sets they carry."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from e2e.cluster.layout import ClusterError
from e2e.cluster.progress import say
from images import mnist
from images.build import build, push, references
from images.catalog import IMAGES
from images.errors import ImageError


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        _run(arguments)
    except (ImageError, ClusterError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. What was built stays; the next build goes on from there.", file=sys.stderr)
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    match arguments.command:
        case "build":
            _show(build(arguments.names, say, arguments.base), as_json=False)
        case "list":
            _show(references(arguments.base), as_json=arguments.json)
        case "datasets":
            arguments.folder.mkdir(parents=True, exist_ok=True)
            mnist.make(arguments.folder, say)
        case "push":
            pushed = push(
                arguments.registry, arguments.names, arguments.tag_suffix, base=arguments.base
            )
            _show(pushed, as_json=False)
            if arguments.values is not None:
                arguments.values.write_text(json.dumps({"images": pushed}, indent=2) + "\n")
                say(f"Give these to the chart with --values {arguments.values}")


def _show(found: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for name, reference in found.items():
            print(f"{name:<12}{reference}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m images", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--base",
        metavar="IMAGE",
        help="build on this image (python:3.11-slim) and not on a Debian made on this machine",
    )
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(IMAGES)}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", parents=[common, named], help="build what is not built yet")
    listing = commands.add_parser("list", parents=[common], help="print names and references")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    pushing = commands.add_parser("push", parents=[common, named], help="build, then push")
    pushing.add_argument("--registry", required=True, metavar="R", help="such as ghcr.io/you")
    pushing.add_argument("--tag-suffix", default="", metavar="S", help="added to each tag")
    pushing.add_argument(
        "--values", type=Path, metavar="FILE", help="write the chart's values for these images"
    )
    datasets = commands.add_parser("datasets", help="put the images' data sets into a folder")
    datasets.add_argument("folder", type=Path, help="what LEPTON_DATASETS is to name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
