from __future__ import annotations

from dataclasses import replace

import pytest

from lepton_operator.autoscale.queueing import Door
from lepton_operator.autoscale.service import first, learn, model
from lepton_operator.autoscale.values import Computed, Samples, Service, Spec

DOOR = Door(doors=1)
SPEC = Spec(target_seconds=0.5, percentile=95.0)
NOTHING = Computed(0, 0, 0)
ZERO = Samples(0.0, 0, 1, 0, 0.0, 4, computed=NOTHING)


def served(
    before: Samples,
    *,
    requests: float,
    batch: float,
    each: float,
    wait: float = 0.0,
    hits: float = 0.0,
) -> Samples:
    """Return samples 2 s later, after batches that took `each` seconds."""
    done = before.computed or NOTHING
    return replace(
        before,
        time=before.time + 2,
        arrivals=before.arrivals + requests,
        completions=before.completions + requests,
        latency_seconds=before.latency_seconds + requests * (each + wait),
        computed=Computed(
            done.requests + requests,
            done.seconds + requests * each,
            done.batches + requests / batch,
            done.hits + hits,
        ),
    )


def test_nothing_is_known_before_a_request_was_answered() -> None:
    assert model(Service(), SPEC) is None
    assert learn(Service(), ZERO, replace(ZERO, time=2.0), 0.0, DOOR) == Service()


def test_what_was_computed_before_anybody_looked_is_known() -> None:
    samples = replace(ZERO, computed=Computed(500, 50.0, 500))
    found = model(first(Service(), samples), SPEC)
    assert found is not None
    assert found.work_seconds == pytest.approx(0.1)
    assert first(Service(), ZERO) == Service()


def test_a_triton_that_is_told_of_late_tells_what_it_had_computed() -> None:
    """All requests since may be hits of its cache."""
    before = replace(ZERO, computed=None)
    late = replace(ZERO, time=2.0, computed=Computed(2, 0.2, 2, hits=38))
    found = model(learn(Service(), before, late, 20, DOOR), SPEC)
    assert found is not None
    assert found.work_seconds == pytest.approx(0.1)
    assert found.share_computed < 0.2
    known = learn(Service(), ZERO, served(ZERO, requests=40, batch=1, each=0.3), 20, DOOR)
    assert learn(known, before, late, 20, DOOR).seconds == known.seconds


def test_the_service_time_is_tritons() -> None:
    service = learn(
        Service(), ZERO, served(ZERO, requests=40, batch=1, each=0.1, wait=0.3), 20, DOOR
    )
    found = model(service, SPEC)
    assert found is not None
    assert found.seconds_alone == pytest.approx(0.1)
    assert found.work_seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("in_flight", "wait", "work"),
    [
        pytest.param(3.0, 0.0, 0.1, id="nobody waits"),
        pytest.param(20.0, 0.9, 0.2, id="every replica works all the time"),
        pytest.param(6.0, 0.1, None, id="some wait"),
    ],
)
def test_without_triton_the_doors_show_it(in_flight: float, wait: float, work: float) -> None:
    before = replace(ZERO, in_flight=in_flight, computed=None)
    after = replace(served(before, requests=40, batch=1, each=0.1, wait=wait), computed=None)
    found = model(learn(Service(), before, after, 20, DOOR), SPEC)
    assert (found and pytest.approx(found.work_seconds)) == work


def test_what_doors_and_tritons_count_need_not_come_together() -> None:
    half = served(ZERO, requests=40, batch=1, each=0.1)
    door = replace(half, computed=NOTHING)
    triton = replace(half, time=4.0)
    service = learn(Service(), ZERO, door, 20, DOOR)
    found = model(learn(service, door, triton, 0, DOOR), SPEC)
    assert found is not None
    assert found.work_seconds == pytest.approx(0.1)


def test_batches_that_save_nothing_are_not_waited_for() -> None:
    service = learn(Service(), ZERO, served(ZERO, requests=40, batch=1, each=0.1), 20, DOOR)
    found = model(service, replace(SPEC, max_batch=8))
    assert found is not None
    assert found.seconds_batched == pytest.approx(0.1)


def test_what_batches_save_is_learned() -> None:
    service, before = Service(), ZERO
    for size in (1, 2, 4, 8, 4, 2, 1):
        after = served(before, requests=40, batch=size, each=0.05 + 0.01 * size)
        service, before = learn(service, before, after, 20, DOOR), after
    found = model(service, replace(SPEC, max_batch=16))
    assert found is not None
    assert found.seconds_alone == pytest.approx(0.06)
    # A batch of 16 takes 0.21 s, and a request can meet two of them within 0.5 s.
    assert found.seconds_batched == pytest.approx(0.21)
    assert found.work_seconds == pytest.approx(0.21 / 16)


def test_a_batch_is_no_larger_than_the_target_lets_it() -> None:
    service, before = Service(), ZERO
    for size in (1, 2, 4, 8):
        after = served(before, requests=40, batch=size, each=0.05 + 0.05 * size)
        service, before = learn(service, before, after, 20, DOOR), after
    found = model(service, replace(SPEC, max_batch=64))
    assert found is not None
    assert found.seconds_batched == pytest.approx(0.25)


def test_one_size_of_batches_says_nothing_of_larger_ones() -> None:
    service = learn(Service(), ZERO, served(ZERO, requests=40, batch=1, each=0.1), 20, DOOR)
    found = model(service, replace(SPEC, max_batch=8))
    assert found is not None
    assert found.work_seconds == pytest.approx(0.1)


def test_a_hit_of_the_cache_costs_no_replica_anything() -> None:
    service, before = Service(), ZERO
    for _ in range(20):
        after = served(before, requests=10, batch=1, each=0.1, hits=90)
        service, before = learn(service, before, after, 50, DOOR), after
    found = model(service, SPEC)
    assert found is not None
    assert found.work_seconds == pytest.approx(0.1)
    # A tenth, and by how much a count of a hundred may be wrong.
    assert found.share_computed == pytest.approx(0.111, abs=0.001)
    assert found.load_seconds == pytest.approx(0.0111, abs=0.0001)


def test_hits_that_only_doors_see_are_not_left_out_twice() -> None:
    service, before = Service(), ZERO
    for _ in range(50):
        after = served(before, requests=10, batch=1, each=0.1, hits=90)
        service, before = learn(service, before, after, 50, DOOR), after
    # From here on no Triton tells anything; the doors see 100 answers, a tenth of them computed.
    before = replace(before, computed=None)
    for _ in range(50):
        after = replace(
            before,
            time=before.time + 2,
            completions=before.completions + 100,
            latency_seconds=before.latency_seconds + 10 * 0.1,
        )
        service, before = learn(service, before, after, 50, DOOR), after
    found = model(service, SPEC)
    assert found is not None
    assert found.load_seconds == pytest.approx(0.01, rel=0.05)


def test_what_doors_refuse_while_no_replica_is_ready_is_no_work() -> None:
    before = replace(ZERO, computed=None, ready=0, in_flight=0)
    refused = replace(before, time=2.0, completions=160, latency_seconds=0.03)
    assert learn(Service(), before, refused, 80, DOOR).weight == 0


def test_a_few_hits_do_not_promise_that_all_will_be() -> None:
    service = learn(
        learn(Service(), ZERO, served(ZERO, requests=2, batch=1, each=0.1), 1, DOOR),
        ZERO,
        replace(ZERO, time=2.0, computed=NOTHING._replace(hits=3)),
        1,
        DOOR,
    )
    found = model(service, SPEC)
    assert found is not None
    assert found.share_computed > 0.7


def test_hits_between_misses_are_counted_too() -> None:
    service, before = Service(), ZERO
    for turn in range(200):
        after = served(before, requests=turn % 10 == 0, batch=1, each=0.1, hits=10)
        service, before = learn(service, before, after, 5, DOOR), after
    found = model(service, SPEC)
    assert found is not None
    assert found.share_computed < 0.02


def test_a_counter_that_begins_again_is_no_loss() -> None:
    service = learn(Service(), ZERO, served(ZERO, requests=40, batch=1, each=0.1), 20, DOOR)
    high = replace(ZERO, completions=1e6, latency_seconds=1e5, computed=Computed(1e6, 1e5, 1e6))
    after = replace(served(ZERO, requests=40, batch=1, each=0.1), time=2.0, latency_seconds=4.0)
    found = model(learn(service, high, after, 20, DOOR), SPEC)
    assert found is not None
    assert found.work_seconds == pytest.approx(0.1)


def calm(wait: float, seconds: int) -> Service:
    service, before = Service(), ZERO
    for _ in range(seconds // 2):
        after = served(before, requests=60, batch=1, each=0.1, wait=wait)
        service, before = learn(service, before, after, 30.0, DOOR), after
    return service


def test_longer_waits_than_foretold_are_variability() -> None:
    usual, longer = model(calm(0.02, 300), SPEC), model(calm(0.2, 300), SPEC)
    assert usual is not None
    assert longer is not None
    assert longer.variability > 2 * usual.variability >= 1


def test_what_waited_because_it_had_piled_up_is_not() -> None:
    service, before = Service(), replace(ZERO, in_flight=400)
    for _ in range(100):
        after = served(before, requests=60, batch=1, each=0.1, wait=9.0)
        service, before = learn(service, before, after, 30.0, DOOR), after
    found = model(service, SPEC)
    assert found is not None
    assert found.variability == 0.5
