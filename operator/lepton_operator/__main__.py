"""The command: `python -m lepton_operator`."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from lepton_operator import crds, reference, settings
from lepton_operator.replay import arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    parsed = _parser().parse_args(arguments)
    return int(parsed.command(parsed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lepton-operator", description=__doc__)
    commands = parser.add_subparsers(required=True)
    operate = commands.add_parser("run", help="run the operator")
    operate.add_argument("--settings", type=Path, default=settings.DEFAULT_PATH)
    operate.add_argument(
        "--kubeconfig",
        type=Path,
        default=os.environ.get("KUBECONFIG") or None,
        help="default: $KUBECONFIG, or the service account of the pod that this runs in",
    )
    operate.set_defaults(command=_run)
    crd = commands.add_parser("crds", help="write the CustomResourceDefinitions")
    crd.add_argument("folders", nargs="+", type=Path)
    crd.add_argument("--reference", type=Path, metavar="FILE", help="and the page of all fields")
    crd.add_argument("--check", action="store_true", help="only say which files are not current")
    crd.set_defaults(command=_crds)
    explain = commands.add_parser("explain", help="say what autoscaling would have done, and why")
    arguments.add_arguments(explain)
    explain.set_defaults(command=_explain)
    return parser


def _run(parsed: argparse.Namespace) -> int:
    # `crds` needs neither Kopf nor a client, and these take a second to import.
    import uvloop  # noqa: PLC0415

    from lepton_operator import errors, logs, run  # noqa: PLC0415
    from lepton_operator.leader import Candidate  # noqa: PLC0415
    from lepton_operator.plans import PLANS  # noqa: PLC0415

    try:
        chosen = settings.load(parsed.settings)
    except (OSError, ValueError) as error:
        print(f"{parsed.settings} cannot be used as settings: {error}", file=sys.stderr)
        return 2
    logs.configure(chosen.log_level)
    namespace = os.environ.get("POD_NAMESPACE", "default")
    candidate = Candidate(namespace, os.environ.get("POD_UID") or _process_identity())
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run.run(chosen, PLANS, candidate, parsed.kubeconfig))
    except (errors.NoCluster, OSError) as error:  # OSError: the port for probes is taken
        print(f"The operator cannot start: {error}", file=sys.stderr)
        return 2


def _explain(parsed: argparse.Namespace) -> int:
    from lepton_operator.replay import command  # noqa: PLC0415 - as above

    return command.run(parsed)


def _process_identity() -> str:
    """Return who we are outside of a pod; a pod's UID lets a restarted container go on at once."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _crds(parsed: argparse.Namespace) -> int:
    page: Path | None = parsed.reference
    if not parsed.check:
        crds.write(parsed.folders)
        if page is not None:
            page.write_text(reference.rendered())
        return 0
    outdated = crds.outdated(parsed.folders)
    if page is not None and not reference.is_current(page):
        outdated.append(page)
    for path in outdated:
        print(f"{path} is not current: run `make crds`", file=sys.stderr)
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
