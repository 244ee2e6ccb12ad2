"""What the recipe may be told."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    epochs: int
    batch_size: int
    max_learning_rate: float
    seed: int
    log_every_steps: int


def parse(arguments: Sequence[str] | None, world_size: int) -> Options:
    """Read the command line; a wrong flag ends the program with a sentence and exit code 2."""
    parser = _parser()
    options = Options(**vars(parser.parse_args(arguments)))
    if options.batch_size < world_size:
        parser.error(
            f"--batch-size={options.batch_size} is less than one digit for each of {world_size} "
            f"ranks: give at least {world_size}, or start fewer ranks"
        )
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lepton_ai.recipes.digits",
        description="Train a network that reads handwritten digits (MNIST), and export it to ONNX.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--epochs", type=_count, default=3, help="passes over the training digits")
    parser.add_argument(
        "--batch-size", type=_count, default=128, help="digits in a step, of all ranks together"
    )
    parser.add_argument(
        "--max-learning-rate", type=_rate, default=5e-3, help="the peak of the one-cycle schedule"
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        help="of weights and batches; the held-out digits stay the same",
    )
    parser.add_argument(
        "--log-every-steps",
        type=_count,
        default=20,
        help="steps from one progress line to the next",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return rate
