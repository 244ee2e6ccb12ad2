from __future__ import annotations

import numpy as np
import pytest

from bench.autoscaling.validation import KINDS, workload


@pytest.mark.parametrize("number", range(2 * len(KINDS)))
def test_a_workload_is_an_hour_that_its_number_alone_decides(number: int) -> None:
    trace, again = workload(number), workload(number)
    assert np.array_equal(trace.arrivals, again.arrivals)
    assert trace.rate is not None
    assert trace.rate.min() > 0
    assert 500 < len(trace.arrivals) < 3600 * 200
    assert trace.arrivals[-1] <= trace.duration_seconds == 3600


def test_no_two_workloads_of_a_kind_are_alike() -> None:
    first, second = (workload(number).arrivals for number in (0, len(KINDS)))
    assert not np.array_equal(first, second)
