"""What `lepton-operator explain` can be told: apart, for what runs it takes a second to import."""

from __future__ import annotations

import argparse
from pathlib import Path

from lepton_operator import settings

CAVEAT = (
    "Demand and latency are as they were counted, whatever the law would have done: other replicas "
    "would have been other latencies. This tells why and when, not how well it would have answered."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be said on the command line."""
    parser.description = f"What the law would have done for a service, and why. {CAVEAT}"
    source = parser.add_argument_group("what is replayed")
    source.add_argument("--recording", type=Path, metavar="FILE", help="written by --record")
    source.add_argument("--prometheus", metavar="URL", help="default: the settings' own")
    source.add_argument("--matcher", action="append", default=[], metavar="LABEL=VALUE")
    source.add_argument("--settings", type=Path, default=settings.DEFAULT_PATH)
    source.add_argument("--namespace")
    source.add_argument("--service")
    source.add_argument("--from", dest="since", default="1h", help="a time, or as 90m: so long ago")
    source.add_argument("--to", dest="until", default="0s", help="the same")
    source.add_argument("--record", type=Path, metavar="FILE", help="write it, and end")
    asked = parser.add_argument_group("what the law is asked for")
    asked.add_argument("--manifest", type=Path, metavar="FILE", help="the InferenceService in YAML")
    asked.add_argument("--target-ms", type=int, help="in place of the manifest's")
    asked.add_argument("--percentile", type=float)
    asked.add_argument("--min", type=int)
    asked.add_argument("--max", type=int)
    asked.add_argument(
        "--max-batch", type=int, help="in place of the manifest's batching, or of the settings'"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--as-it-was",
        action="store_true",
        help="decide at each look over the replicas that there were, not over the law's own",
    )
    how.add_argument("--startup-seconds", type=float, help="default: as recorded")
    how.add_argument("--gpus-per-replica", type=int, default=1)
    how.add_argument("--every", action="store_true", help="show each look, not only the changes")
    how.add_argument("--output", choices=("text", "json"), default="text")
