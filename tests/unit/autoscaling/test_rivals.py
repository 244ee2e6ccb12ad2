"""The laws of the others: cases that follow from their sources."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.autoscaling import rivals
from bench.autoscaling.prometheus import (
    Scrapes,
    Scraping,
    latency_quantile,
    open_scrapes,
    queue_per_compute,
    scrape,
)
from bench.autoscaling.rivals import RIVALS, Seen, Tuning
from bench.autoscaling.world import COMPUTED, QUEUED, Setting, World, draw, open_world


def seen(
    in_flight: float,
    *,
    ready: int = 4,
    desired: int = 4,
    second: int = 120,
    advice: dict[int, int] | None = None,
) -> Seen:
    """Return two minutes of a steady service."""
    advised = np.full(second + 1, -1, np.int64)
    for when, count in (advice or {}).items():
        advised[when] = count
    return Seen(
        second,
        np.full(second + 1, in_flight),
        np.full(second + 1, 10.0),
        np.full(second + 1, ready, np.int64),
        np.full(second + 1, desired, np.int64),
        advised,
    )


@pytest.mark.parametrize(
    ("total", "expected"), [(4.0, 4), (4.39, 4), (4.5, 5), (3.6, 4), (3.5, 4), (3.0, 3), (40.0, 40)]
)
def test_hpa_keeps_within_a_tenth_and_divides_the_total(total: float, expected: int) -> None:
    assert rivals.hpa_average_value(total, 1.0, 4) == expected


def test_hpa_on_a_value_multiplies_ready_pods_and_holds_without_one() -> None:
    assert rivals.hpa_value(0.9, 0.5, 6, 4) == 8
    assert rivals.hpa_value(0.52, 0.5, 6, 4) == 6
    assert rivals.hpa_value(math.nan, 0.5, 6, 4) == 6
    # kubernetes#130130: nobody ready, so it asks for nobody.
    assert rivals.hpa_value(5.0, 0.5, 6, 0) == 0


def test_hpa_on_pods_counts_those_that_start_as_idle_on_the_way_up() -> None:
    assert rivals.hpa_pods(2.0, 1.0, 4, 4) == 8
    assert rivals.hpa_pods(2.0, 1.0, 8, 4) == 8
    assert rivals.hpa_pods(4.0, 1.0, 8, 4) == 16
    assert rivals.hpa_pods(0.5, 1.0, 4, 4) == 2


@pytest.mark.parametrize(
    ("advice", "window", "expected"),
    [(10, 300, 8), (6, 300, 6), (2, 300, 4), (2, 60, 3), (2, 0, 2), (30, 0, 8)],
)
def test_hpa_goes_up_by_four_or_double_and_down_to_the_windows_most(
    advice: int, window: int, expected: int
) -> None:
    past = seen(1.0, advice={20: 9, 75: 3, 105: 2})
    assert rivals.hpa_behaviour(past, advice, window) == expected


def test_kpa_divides_the_total_by_its_target() -> None:
    assert rivals.kpa(seen(3.0), Tuning(0.7, 0), (0.0, 0.0)).desired == 5


def test_kpa_panics_on_six_seconds_and_does_not_go_down_for_a_minute() -> None:
    burst = seen(2.0)
    burst.in_flight[-6:] = 20.0
    tuning = Tuning(1.0, 0)
    answer = rivals.kpa(burst, tuning, (0.0, 0.0))
    assert (answer.desired, answer.memory) == (20, (120.0, 20.0))
    calm = seen(2.0, ready=20, second=180)
    assert rivals.kpa(calm, tuning, answer.memory).desired == 20
    later = rivals.kpa(seen(2.0, ready=20, second=181), tuning, answer.memory)
    # floor(20 / 2): not below half of what is ready.
    assert (later.desired, later.memory) == (10, (0.0, 0.0))


def test_kpa_starts_in_panic_unless_it_has_one_pod() -> None:
    assert rivals.kpa_memory(1) == (0.0, 0.0)
    assert rivals.kpa(seen(1.0, second=30), Tuning(1.0, 0), rivals.kpa_memory(4)).desired == 4


@pytest.mark.parametrize(
    ("in_flight", "expected"), [(4.0, 4), (4.4, 4), (4.8, 5), (20.0, 8), (3.0, 3), (0.4, 2)]
)
def test_apa_multiplies_within_twice_and_half(in_flight: float, expected: int) -> None:
    assert rivals.apa(seen(in_flight), Tuning(1.0, 0)).desired == expected


def test_apa_takes_the_least_of_its_window_on_the_way_down() -> None:
    past = seen(3.0, advice={60: 1})
    assert rivals.apa(past, Tuning(1.0, 300)).desired == 1
    assert rivals.apa(past, Tuning(1.0, 30)).desired == 3


def test_apa_waits_for_pods_that_start() -> None:
    # Two ready with 3 in flight each, two that start: 4 x (3 x 2 / 4) / 1 = 6, not 8.
    assert rivals.apa(seen(6.0, ready=2), Tuning(1.0, 0)).desired == 6


def test_ray_scales_once_it_has_wanted_to_for_its_delay() -> None:
    memory, tuning = (0.0, 0.0), Tuning(2.0, 600)
    for _ in range(29):
        answer = rivals.ray(seen(20.0), tuning, memory)
        memory = answer.memory
        assert answer.desired == 4
    assert rivals.ray(seen(20.0), tuning, memory).desired == 10
    assert rivals.ray(seen(2.0), tuning, memory).memory == (-1.0, 0.0)
    assert rivals.ray(seen(2.0), tuning, (-599.0, 0.0)).desired == 1


def test_each_rival_has_its_default_and_a_grid_of_twelve_targets_and_four_windows() -> None:
    for rival in RIVALS.values():
        assert rival.grid[0] == rival.default
        assert len(set(rival.targets)) == 12
        grid = {(t, d) for t in rival.targets for d in (0, 60, 300, 1000)}
        assert set(rival.grid) == grid | {rival.default}
        assert len(rival.grid) == len(set(rival.grid))


def a_world() -> World:
    return open_world(draw(np.zeros(1), Setting(), 0), 1, 1, 0.5)


def scraped(world: World, scraping: Scraping, seconds: range) -> Scrapes:
    """Scrape a service that answers ten requests a second just under the target."""
    scrapes = open_scrapes(scraping, world, 300.0, seed=5)._replace(phase=0)
    bucket = int(np.searchsorted(world.edges, 0.49))
    for second in seconds:
        world.buckets[bucket] = 10 * second
        world.sums[QUEUED], world.sums[COMPUTED] = 3.0 * second, 1.0 * second
        scrape(scrapes, world, second)
    return scrapes


def test_a_quantile_is_interpolated_in_its_bucket() -> None:
    scrapes = scraped(a_world(), Scraping(), range(121))
    assert latency_quantile(scrapes, 120.0, 60.0, 0.5) == pytest.approx((0.4 + 0.5) / 2)
    assert queue_per_compute(scrapes, 120.0, 60.0) == pytest.approx(3.0)


def test_a_sample_is_seen_late() -> None:
    scrapes = scraped(a_world(), Scraping(delay_seconds=10.0), range(31))
    assert queue_per_compute(scrapes, 25.0, 60.0) == pytest.approx(3.0)
    assert math.isnan(queue_per_compute(scrapes, 24.0, 60.0))


def test_without_two_samples_there_is_no_rate() -> None:
    scrapes = scraped(a_world(), Scraping(lost_share=1.0), range(121))
    assert scrapes.filled[0] == 0
    assert math.isnan(latency_quantile(scrapes, 120.0, 60.0, 0.95))
    assert math.isnan(queue_per_compute(scrapes, 120.0, 60.0))


def test_some_samples_are_lost() -> None:
    scrapes = scraped(a_world(), Scraping(lost_share=0.5), range(301))
    assert 0 < scrapes.filled[0] < 20
