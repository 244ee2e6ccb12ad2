"""Traces: a user's file, the recorded ones, the generated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.autoscaling.arrivals import MEAN_RATE, TRACES, load


def test_a_file_has_an_arrival_time_a_line_and_maybe_a_header(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("seconds\n0.5\n\n2.5\n1.5\n")
    trace = load(file)
    assert (trace.name, list(trace.arrivals), trace.duration_seconds) == (
        "mine",
        [0.5, 1.5, 2.5],
        2.5,
    )


def test_a_line_that_is_no_time_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("0.5\n1.0\nsoon\n")
    with pytest.raises(ValueError, match=r"mine\.csv:3: 'soon' is no arrival time in seconds"):
        load(file)


@pytest.mark.parametrize("name", sorted(TRACES))
def test_each_trace_is_sorted_lasts_about_an_hour_and_is_the_same_for_a_seed(name: str) -> None:
    trace, again, other = (TRACES[name](seed) for seed in (1, 1, 2))
    assert (np.diff(trace.arrivals) >= 0).all()
    assert 0 <= trace.arrivals[0] <= trace.arrivals[-1] <= trace.duration_seconds
    assert 3400 < trace.duration_seconds <= 3600
    assert np.array_equal(trace.arrivals, again.arrivals)
    assert not np.array_equal(trace.arrivals, other.arrivals)


@pytest.mark.parametrize("name", ["azure-code", "mooncake-conversation"])
def test_a_recorded_trace_is_repeated_to_the_mean_rate(name: str) -> None:
    trace = TRACES[name](0)
    assert len(trace.arrivals) / trace.duration_seconds == pytest.approx(MEAN_RATE, rel=0.02)


def test_the_wave_goes_from_ten_to_forty_requests_a_second() -> None:
    rate = TRACES["wave"](0).rate
    assert rate is not None
    assert (rate.min(), rate.max(), rate.mean()) == pytest.approx((10.0, 40.0, 25.0))
