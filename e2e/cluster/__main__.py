"""`python -m e2e.cluster`: what the targets cluster-up, cluster-down and cluster-status run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster import cluster, images, layout, tools
from e2e.cluster.layout import ClusterError
from images.build import references

_IMAGE_HELP = "a name (agent) or reference to import; by default all that are built"


def main() -> int:
    arguments = _parser().parse_args()
    try:
        arguments.run(arguments)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here; `make cluster-down` removes it.")
        return 130
    return 0


def _up(arguments: argparse.Namespace) -> None:
    started = cluster.up(
        arguments.name,
        arguments.nodes,
        arguments.fake_nodes,
        gpus_per_node=arguments.gpus_per_node,
        images=_references(arguments.image),
        audit=arguments.audit,
        stages=arguments.stages,
    )
    print(f"Look at it with: {_look(started)}")
    print(f"Stop it with:    make cluster-down NAME={started.name}")


def _look(found: cluster.Cluster) -> str:
    # By its path: a new machine has no kubectl but the one that was built.
    return f"KUBECONFIG={found.kubeconfig} {tools.path('kubectl')} get nodes"


def _down(arguments: argparse.Namespace) -> None:
    cluster.down(arguments.name)


def _load(arguments: argparse.Namespace) -> None:
    cluster.find(arguments.name).load(_references(arguments.image))


def _references(names: Sequence[str]) -> list[str]:
    """Of these images (by name or reference), or of all of the project's that are built."""
    known = references()
    if names:
        return [known.get(name, name) for name in names]
    return sorted(set(known.values()) & images.built())


def _status(arguments: argparse.Namespace) -> None:
    names = [arguments.name] if arguments.name else layout.names()
    if not names:
        print("No cluster is up. Start one with `make cluster-up`.")
    for name in names:
        if name in layout.names():
            _print_status(cluster.find(name))
        else:
            print(f"Cluster {name!r} is not up. Start it with `make cluster-up NAME={name}`.")


def _print_status(found: cluster.Cluster) -> None:
    print(f"cluster {found.name}: API server {found.plane.api.url}, network {found.network.whole}")
    print(f"  look at it: {_look(found)}")
    for daemon in found.daemons():
        pid = daemon.pid
        print(f"  {daemon.name:<24} {f'running, pid {pid}' if pid else 'NOT RUNNING'}")


def _kubeconfig(arguments: argparse.Namespace) -> None:
    print(cluster.find(arguments.name).kubeconfig)


def _tools(_: argparse.Namespace) -> None:
    tools.build()
    for module in tools.EVERYDAY:
        for command in module.commands:
            print(f"{command:<24} {tools.tool(command)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True)

    start = commands.add_parser("up", help="start a cluster, or what is missing of it")
    start.add_argument("--name", default=cluster.DEFAULT_NAME)
    start.add_argument("--nodes", type=int, default=1)
    start.add_argument("--fake-nodes", type=int, default=0)
    start.add_argument("--gpus-per-node", type=int, default=8)
    start.add_argument("--image", action="append", default=[], help=_IMAGE_HELP)
    start.add_argument("--audit", action=argparse.BooleanOptionalAction, default=True)
    start.add_argument("--stages", type=Path, help="kwok Stage objects instead of kwok's own")
    start.set_defaults(run=_up)

    for name, run, text in (
        ("down", _down, "remove a cluster and every trace of it"),
        ("kubeconfig", _kubeconfig, "print the path of its kubeconfig"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--name", default=cluster.DEFAULT_NAME)
        command.set_defaults(run=run)

    load = commands.add_parser("load", help="import images into the nodes of a running cluster")
    load.add_argument("image", nargs="*", help=_IMAGE_HELP)
    load.add_argument("--name", default=cluster.DEFAULT_NAME)
    load.set_defaults(run=_load)

    status = commands.add_parser("status", help="show clusters and their processes")
    status.add_argument("--name")
    status.set_defaults(run=_status)

    build = commands.add_parser("tools", help="build the Go programs and print where they are")
    build.set_defaults(run=_tools)
    return parser


if __name__ == "__main__":
    sys.exit(main())
