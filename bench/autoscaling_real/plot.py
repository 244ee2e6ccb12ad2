"""The plot: the rate, the replicas, and what clients waited, measured and predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from bench.autoscaling.world import Floats
from bench.autoscaling_real.figures import Run, windows
from bench.autoscaling_real.recording import Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WINDOW_SECONDS = 10.0
_RATE_SECONDS = 2.0
_LATENCIES = ((95, "tab:blue"), (99, "tab:purple"))


def plot(recording: Recording, real: Run, foretold: Sequence[Run], file: Path) -> None:
    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  (after the backend is chosen)

    figure, (rate, replicas, latency) = plt.subplots(3, 1, figsize=(9, 9), sharex=True)
    _rate(rate, recording, real)
    _replicas(replicas, real, foretold)
    _latency(latency, recording, real, foretold)
    latency.set(xlabel="seconds", xlim=(0, recording.duration_seconds))
    for axes in (rate, replicas, latency):
        axes.legend(fontsize=8, loc="upper right")
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _rate(axes: Axes, recording: Recording, real: Run) -> None:
    edges = np.arange(0, recording.duration_seconds + _RATE_SECONDS, _RATE_SECONDS)
    counts, _ = np.histogram(real.at, edges)
    axes.step(edges[:-1], counts / _RATE_SECONDS, where="post", color="tab:grey", linewidth=0.8,
              label=f"as k6 sent them, in {_RATE_SECONDS:g} s")  # fmt: skip
    begins = [*recording.begins().values(), recording.duration_seconds]
    rates = [each.rate for each in recording.phases]
    axes.step(begins, [*rates, rates[-1]], where="post", color="black", label="asked for")
    axes.set(ylabel="requests a second")


def _replicas(axes: Axes, real: Run, foretold: Sequence[Run]) -> None:
    times = np.arange(0.0, real.at[-1], 1.0)
    band = np.array([_held(each.ready, times) for each in foretold])
    axes.fill_between(times, band.min(axis=0), band.max(axis=0), step="post", alpha=0.25,
                      color="tab:orange", label=f"predicted, {len(band)} seeds")  # fmt: skip
    axes.step(times, np.median(band, axis=0), where="post", color="tab:orange",
              label="predicted, ready")  # fmt: skip
    axes.step(*_columns(real.wanted, times[-1]), where="post", color="tab:red", linestyle=":",
              label="measured, spec.replicas")  # fmt: skip
    axes.step(*_columns(real.ready, times[-1]), where="post", color="tab:blue",
              label="measured, at every door")  # fmt: skip
    axes.set(ylabel="replicas", ylim=(0, None))


def _columns(
    steps: Sequence[tuple[float, float]], until: float | None = None
) -> tuple[list[float], list[float]]:
    """Return times and numbers; the last number holds until the end."""
    whole = [*steps, *([] if until is None else [(until, steps[-1][1])])]
    return [at for at, _ in whole], [number for _, number in whole]


def _held(steps: Sequence[tuple[float, float]], times: Floats) -> Floats:
    """Return the number that held at each time."""
    at, numbers = (np.array(each) for each in _columns(steps))
    return numbers[np.maximum(np.searchsorted(at, times, side="right") - 1, 0)]


def _latency(axes: Axes, recording: Recording, real: Run, foretold: Sequence[Run]) -> None:
    for percentile, colour in _LATENCIES:
        middles, found = windows(real, WINDOW_SECONDS, percentile)
        axes.plot(middles, found * 1e3, color=colour, label=f"p{percentile}, measured")
        others = [windows(each, WINDOW_SECONDS, percentile)[1] for each in foretold]
        axes.plot(middles, np.median(others, axis=0) * 1e3, color=colour, linestyle="--",
                  label=f"p{percentile}, predicted")  # fmt: skip
    target = recording.asked.target_seconds * 1e3
    axes.axhline(
        target, color="black", linewidth=0.8, label=f"target at p{recording.asked.percentile:g}"
    )
    axes.set(ylabel=f"milliseconds, in {WINDOW_SECONDS:g} s", yscale="log")
