"""Curves of a training: each metric over the steps, as data and as a picture.

Their size is bounded, however long the training is: of a metric that was told more than 2,000
times each second, fourth, eighth ... value is kept, and the last one.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lepton_launcher.board import of_this_process

DATA_FILE = "curves.jsonl"
PICTURE_FILE = "curves.png"
MOST_POINTS = 2_000
MOST_METRICS = 16
_WIDTH_INCHES = 7.0
_HEIGHT_INCHES = 2.2

logger = logging.getLogger(__name__)

Point = tuple[int, float]


class Curve:
    """One metric: evenly chosen ones of the values that were told, and the last."""

    def __init__(self) -> None:
        self._kept: list[Point] = []
        self._last: Point | None = None
        self._told = 0
        self._stride = 1

    def add(self, step: int, value: float) -> None:
        self._last = (step, value)
        if self._told % self._stride == 0:
            self._kept.append(self._last)
        self._told += 1
        if len(self._kept) > MOST_POINTS:
            self._kept = self._kept[::2]
            self._stride *= 2

    @property
    def points(self) -> list[Point]:
        """Steps and values, in the order in which they were told."""
        if self._last is None or self._kept[-1] == self._last:
            return list(self._kept)
        return [*self._kept, self._last]

    def state_dict(self) -> dict[str, Any]:
        return {
            "kept": list(self._kept),
            "last": self._last,
            "told": self._told,
            "stride": self._stride,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._kept, self._last = list(state["kept"]), state["last"]
        self._told, self._stride = state["told"], state["stride"]


class Curves:
    """The curves of one training, which go on where they stood if they are saved with it.

    A `Checkpointer` has its own, of the metrics that its `step` is given. A script without one::

        curves = lai.curves.Curves()
        for step, batch in enumerate(batches, start=1):
            ...
            curves.report(step, {"loss": loss.item()})
        curves.write(Path(os.environ["LEPTON_OUTPUT_DIR"]))
    """

    def __init__(self) -> None:
        self._curves: dict[str, Curve] = {}

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep what is a finite number, of the first 16 metrics."""
        for name, value in metrics.items():
            number = float(value)
            if math.isfinite(number) and (name in self._curves or len(self._curves) < MOST_METRICS):
                self._curves.setdefault(name, Curve()).add(int(step), number)

    def report(
        self, step: int, metrics: Mapping[str, float], *, total_steps: int | None = None
    ) -> None:
        """Keep the metrics of a step that is done; show them in the job's status too."""
        self.add(step, metrics)
        if (board := of_this_process()) is not None:
            board.finish_step(step, total_steps=total_steps, metrics=metrics)

    def points(self, metric: str) -> list[Point]:
        """Return a metric's steps and values; none if it was never told."""
        return self._curves[metric].points if metric in self._curves else []

    def write(self, folder: Path) -> None:
        """Write the curves into a folder, in rank 0; what prevents it costs a warning.

        `curves.jsonl` has a line a step; `curves.png` is drawn where matplotlib is installed.
        """
        if os.environ.get("RANK", "0") != "0" or not self._curves:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / DATA_FILE).write_text("".join(self._lines()), encoding="utf-8")
            self._draw(folder / PICTURE_FILE)
        except OSError as error:
            logger.warning("The curves cannot be written to %s: %s.", folder, error)

    def _lines(self) -> Iterator[str]:
        by_step: dict[int, dict[str, float]] = {}
        for name, curve in self._curves.items():
            for step, value in curve.points:
                by_step.setdefault(step, {})[name] = value
        for step, values in sorted(by_step.items()):
            yield json.dumps({"step": step, **values}) + "\n"

    def _draw(self, path: Path) -> None:
        try:
            # Half a second, and not in everybody's image. Without pyplot there is no global state.
            from matplotlib.figure import Figure  # noqa: PLC0415
        except ImportError:
            logger.info("matplotlib is not installed here: %s is not drawn.", path.name)
            return
        height = _HEIGHT_INCHES * len(self._curves)
        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
        axes = figure.subplots(len(self._curves), squeeze=False)[:, 0]
        for plot, (name, curve) in zip(axes, self._curves.items(), strict=True):
            _plot(plot, name, curve.points)
        axes[-1].set_xlabel("step")
        figure.savefig(path, dpi=100)

    def state_dict(self) -> dict[str, Any]:
        return {name: curve.state_dict() for name, curve in self._curves.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._curves = {}
        for name, saved in state.items():
            self._curves[name] = Curve()
            self._curves[name].load_state_dict(saved)


def _plot(axes: Any, name: str, points: Iterable[Point]) -> None:
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, linewidth=1, marker="." if len(steps) == 1 else "")
    # A dollar sign would begin a formula.
    axes.set_ylabel(name.replace("$", r"\$"))
    axes.grid(visible=True, alpha=0.3)
