"""What the model takes, learned while it runs: execution by batch size, and how requests wait.

A batch of b takes T(b) = t0 + t1 b (least squares over what was seen). A replica serves b / T(b)
requests a second with the largest batch that a request can meet twice: the one before it, and its
own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lepton_operator.autoscale.queueing import Door, mean_wait
from lepton_operator.autoscale.values import Computed, Samples, Service, Spec, grown

# The mean of a thousand exponential times has a standard error of three percent.
_MEMORY_REQUESTS = 1000.0
# Poisson arrivals and constant service, which inference nearly has: (1 + 0) / 2. Less is not
# believed: a time of regular arrivals says nothing of the next.
_LEAST_VARIABILITY = 0.5
_MOST_VARIABILITY = 50.0
# That prior weighs as much as a hundred requests that wait for one service each.
_PRIOR_WAITS = 100.0
# What was answered in such a time came after what had piled up; formulas of a steady state hold.
_CALM_SECONDS = 30.0
_STEADY = 0.9
# Batches of two, once in a hundred.
_ONE_BY_ONE = 1.01
_NOTHING = Computed(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Model:
    """The service as the law counts with it."""

    seconds_alone: float  # how long one request takes, alone
    seconds_batched: float  # how long the batch takes that a replica is counted with
    work_seconds: float  # of one replica, for one request that is computed
    variability: float
    share_computed: float = 1.0  # of requests; the response cache answers the others

    @property
    def load_seconds(self) -> float:
        """Return the work of one replica for one request that comes, in the mean."""
        return self.share_computed * self.work_seconds


def first(service: Service, samples: Samples) -> Service:
    """Take in what Tritons had computed before anybody looked, if nothing else is known."""
    if service.weight or samples.computed is None:
        return service
    return _executed(_asked(service, samples.computed), samples.computed)


def learn(service: Service, before: Samples, now: Samples, rate: float, door: Door) -> Service:
    """Take in what was completed between two samples."""
    if now.computed is None:
        service = _executed(service, _shown(before, now, _share_computed(service)))
    elif before.computed is None:
        service = first(service, now)
    else:
        computed = Computed(*map(grown, before.computed, now.computed))
        service = _executed(_asked(service, computed), computed)
    if now.completions == before.completions:
        return service
    return _waits(service, (before, now), rate, door)


def model(service: Service, spec: Spec) -> Model | None:
    """Return what is known of the model, or None before anything was."""
    if service.weight == 0:
        return None
    fixed, each = _batch_time(service)
    alone = fixed + each
    size = _batch_size(fixed, each, spec)
    batched = fixed + each * size
    work = batched / size
    prior = _PRIOR_WAITS * work
    variability = (service.waited + _LEAST_VARIABILITY * prior) / (service.foretold + prior)
    variability = min(max(variability, _LEAST_VARIABILITY), _MOST_VARIABILITY)
    return Model(alone, batched, work, variability, _share_computed(service))


def _shown(before: Samples, now: Samples, share: float) -> Computed:
    """Return what was computed as far as doors show it, where no Triton tells it.

    While more wait than are worked on, replicas do nothing but work; while there are fewer requests
    than replicas, almost none waits. In between nobody can tell work from waiting. Of what was
    answered the known share was computed. Without a ready replica doors refuse at once: no work.
    """
    done = share * grown(before.completions, now.completions)
    few, many = sorted((before.in_flight, now.in_flight))
    if now.ready == 0 or now.ready != before.ready:
        return _NOTHING
    if few >= 2 * now.ready:
        return Computed(done, now.ready * (now.time - before.time), done)
    took = grown(before.latency_seconds, now.latency_seconds)
    return Computed(done, took, done) if many <= now.ready else _NOTHING


def _executed(service: Service, done: Computed) -> Service:
    if done.requests < 1 or done.seconds <= 0 or done.batches < 1:
        return service
    new, kept = _weights(done.requests)
    each, size = done.seconds / done.requests, max(1.0, done.requests / done.batches)
    return service._replace(
        weight=service.weight * kept + new,
        seconds=service.seconds * kept + new * each,
        size=service.size * kept + new * size,
        size_squared=service.size_squared * kept + new * size**2,
        seconds_size=service.seconds_size * kept + new * each * size,
    )


def _asked(service: Service, done: Computed) -> Service:
    asked = done.requests + done.hits
    if asked == 0:
        return service
    new, kept = _weights(asked)
    return service._replace(
        asked=service.asked * kept + new,
        missed=service.missed * kept + new * (done.requests / asked),
    )


def _weights(requests: float) -> tuple[float, float]:
    """Return what so many requests weigh, and which part of what was learned before stays."""
    new = min(requests, _MEMORY_REQUESTS)
    return new, 1 - new / _MEMORY_REQUESTS


def _share_computed(service: Service) -> float:
    """Return the upper bound of the share that is computed: one standard error, and one request.

    For what the cache is believed to answer there is no replica.
    """
    most = service.missed + math.sqrt(service.missed) + 1
    return min(1.0, most / (service.asked + 1))


def _batch_time(service: Service) -> tuple[float, float]:
    """Return t0 and t1; of one size only, all of it is taken for t1: nothing speaks for more."""
    seconds, size = service.seconds / service.weight, service.size / service.weight
    spread = service.size_squared / service.weight - size**2
    if spread <= 1e-3 * size**2:
        return 0.0, seconds / size
    slope = (service.seconds_size / service.weight - seconds * size) / spread
    slope = min(max(slope, 0.0), seconds / size)
    return seconds - slope * size, slope


def _batch_size(fixed: float, each: float, spec: Spec) -> int:
    if fixed <= 0:  # a larger batch does no more in its time
        return 1
    if each <= 0:
        return spec.max_batch
    return int(min(max(1.0, (spec.target_seconds / 2 - fixed) / each), spec.max_batch))


def _waits(service: Service, between: tuple[Samples, Samples], rate: float, door: Door) -> Service:
    """Compare how long requests waited with M/M/c, once nothing has piled up for a while."""
    before, now = between
    if now.ready != before.ready or now.in_flight > 2 * now.ready:
        return service._replace(calm_since=None)
    if service.calm_since is None:
        return service._replace(calm_since=now.time)
    if service.weight == 0 or service.size > _ONE_BY_ONE * service.weight:
        return service
    seconds, share = service.seconds / service.weight, _share_computed(service)
    done = share * grown(before.completions, now.completions)
    offered = share * rate * seconds
    if now.time - service.calm_since < _CALM_SECONDS or offered >= _STEADY * now.ready:
        return service
    own, others = mean_wait(now.ready, offered, door)
    _, kept = _weights(done)
    took = grown(before.latency_seconds, now.latency_seconds)
    return service._replace(
        waited=service.waited * kept + max(0.0, took - done * (1 + others) * seconds),
        foretold=service.foretold * kept + done * own * seconds,
    )
