"""What `run` is told on its command line. Nothing here differs between two attempts of a pod."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import NamedTuple

from lepton_launcher.departure import SIGNALS
from lepton_launcher.hangs import Patience


class Options(NamedTuple):
    """The arguments of `run`."""

    num_nodes: int
    nproc_per_node: int
    node_rank: int
    attempt: int
    entrypoint: list[str]
    alone: bool
    exchange: Path
    attempt_file: Path
    output: Path
    termination_message: Path | None
    grace_seconds: float
    patience: Patience | None
    """What is a hang; None if none is looked for."""
    leave_signal: str
    """What ranks get when they are asked to leave, unless they save on request."""
    max_restarts: int
    final_exit_codes: frozenset[int]
    final_signals: frozenset[int]
    """Ends after which the operator decides: a rule of the user's may be about them."""
    furthest_step: int
    """The furthest step of the attempts before; -1 if there is none."""

    @property
    def world_size(self) -> int:
        """The number of ranks in the whole gang."""
        return self.num_nodes * self.nproc_per_node

    def entrypoint_problem(self) -> str | None:
        """Why this entrypoint cannot be started, as a sentence; None if it can be."""
        first = self.entrypoint[0] if self.entrypoint else ""
        if not first:
            return "There is no entrypoint: name a script, or -m and a module."
        if first == "-m" and len(self.entrypoint) == 1:
            return "The entrypoint ends after -m: name the module to run."
        if first.startswith("-") and first != "-m":
            return (
                f"The entrypoint starts with {first}: torchrun's own options are set by the "
                "operator; name a script, or -m and a module."
            )
        return None


def parse_options(arguments: list[str]) -> Options:
    """Read the command line; argparse ends the process with a usage message if it is wrong."""
    ours, entrypoint = _split_entrypoint(arguments)
    parser = _parser()
    found = parser.parse_args(ours)
    if found.alone and (found.num_nodes, found.node_rank) != (1, 0):
        parser.error("--alone trains on one node: leave out --num-nodes and --node-rank")
    message = Path("/dev/termination-log")
    return Options(
        num_nodes=found.num_nodes,
        nproc_per_node=found.nproc_per_node,
        node_rank=found.node_rank,
        attempt=found.attempt,
        entrypoint=entrypoint,
        alone=found.alone,
        exchange=found.exchange,
        attempt_file=found.attempt_file,
        output=(found.output or _default_output(found.alone)).absolute(),
        termination_message=found.termination_message or (None if found.alone else message),
        grace_seconds=found.grace_seconds,
        patience=_patience(found),
        leave_signal=found.leave_signal,
        max_restarts=found.max_restarts,
        final_exit_codes=found.final_exit_codes,
        final_signals=found.final_signals,
        furthest_step=found.furthest_step,
    )


def _split_entrypoint(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    border = arguments.index("--")
    return arguments[:border], arguments[border + 1 :]


def _default_output(alone: bool) -> Path:  # noqa: FBT001
    return Path(os.environ.get("LEPTON_OUTPUT_DIR", "output")) if alone else Path("/lepton/output")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lepton_launcher run",
        description="Start the ranks of this node and end with a record of how they ended.",
        usage="%(prog)s [options] -- ENTRYPOINT...",
    )
    parser.add_argument("--num-nodes", type=_positive, default=1)
    parser.add_argument("--nproc-per-node", type=_positive, default=1, help="ranks on this node")
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--attempt", type=_positive, default=1)
    parser.add_argument("--alone", action="store_true", help="one node, no sidecar: a laptop")
    parser.add_argument("--exchange", type=Path, default=Path("/lepton/exchange"))
    parser.add_argument("--attempt-file", type=Path, default=Path("/etc/lepton/attempt"))
    parser.add_argument("--output", type=Path, help="LEPTON_OUTPUT_DIR of every rank")
    parser.add_argument("--termination-message", type=Path, help="where the record is written")
    parser.add_argument(
        "--grace-seconds",
        type=float,
        default=30,
        help="how long this process may take to leave after SIGTERM",
    )
    parser.add_argument(
        "--leave-signal",
        choices=SIGNALS,
        default=SIGNALS[0],
        help="what tells ranks to leave which do not save on request (the SDK's do)",
    )
    _add_policy(parser)
    return parser


def _add_policy(parser: argparse.ArgumentParser) -> None:
    """Add what is a hang, and what is started again in place."""
    parser.add_argument(
        "--hang-timeout-seconds",
        type=_auto_or_seconds,
        default=None,
        help="longest time between two steps before the ranks count as hanging; the default, "
        "'auto', learns it from their steps (with --alone: they never do, as somebody may look "
        "at them in a debugger)",
    )
    parser.add_argument(
        "--hang-startup-seconds",
        type=_seconds,
        default=Patience().startup_seconds,
        help="longest silence before the first steps are made",
    )
    parser.add_argument(
        "--max-restarts",
        type=_count,
        default=0,
        help="how often ranks that fail or hang are started again in their pods without getting "
        "further; 0: never",
    )
    for what in ("exit-codes", "signals"):
        parser.add_argument(
            f"--final-{what}",
            type=_numbers,
            default=frozenset(),
            help=f"{what.replace('-', ' ')} of ranks, with commas between them, after which the "
            "ranks are not started again in their pods",
        )
    parser.add_argument(
        "--furthest-step",
        type=_count,
        default=-1,
        help="the furthest step that attempts before this one reported or saved; default: none",
    )


def _patience(found: argparse.Namespace) -> Patience | None:
    if found.alone and found.hang_timeout_seconds is None:
        return None
    return Patience(found.hang_startup_seconds, found.hang_timeout_seconds)


def _auto_or_seconds(text: str) -> float | None:
    return None if text == "auto" else _seconds(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not at least one second")
    return seconds


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def _numbers(text: str) -> frozenset[int]:
    return frozenset(int(each) for each in text.split(","))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number
