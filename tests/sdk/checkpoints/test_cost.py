from __future__ import annotations

from lepton_ai.checkpoints.cost import SaveMeter
from lepton_ai.checkpoints.interval import SaveCost


class Training:
    """Steps on a virtual clock."""

    def __init__(self) -> None:
        self.meter = SaveMeter()
        self.now = 0.0

    def steps(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self.meter.step_began(self.now)
            self.now += seconds
            self.meter.step_ended(self.now)

    def save(self, steps: int, seconds: float, stall_seconds: float = 0.25) -> None:
        self.now += stall_seconds
        self.meter.save_began(self.now, stall_seconds)
        self.steps(steps, seconds)
        self.meter.save_ended(stall_seconds + steps * seconds)


def test_nothing_is_known_before_the_first_save() -> None:
    training = Training()
    training.steps(10, 1.0)

    assert training.meter.cost() is None


def test_a_save_costs_its_stall_and_what_the_steps_beside_it_take_longer() -> None:
    training = Training()
    training.steps(10, 1.0)
    training.save(steps=4, seconds=1.5)

    assert training.meter.cost() == SaveCost(0.25, 2.0, 6.25)


def test_a_pause_for_an_evaluation_counts_neither_here_nor_there() -> None:
    training = Training()
    training.steps(10, 1.0)
    training.steps(1, 60.0)
    training.meter.save_began(training.now, 0.0)
    training.steps(2, 1.0)
    training.steps(1, 60.0)
    training.meter.save_ended(62.0)

    assert training.meter.cost() == SaveCost(0.0, 0.0, 62.0)


def test_one_slow_save_among_five_changes_nothing() -> None:
    training = Training()
    training.steps(10, 1.0)
    for seconds in (1.5, 1.5, 30.0, 1.5, 1.5):
        training.save(steps=2, seconds=seconds)
        training.steps(5, 1.0)

    assert training.meter.cost() == SaveCost(0.25, 1.0, 3.25)


def test_a_save_that_failed_says_nothing_of_the_cost() -> None:
    training = Training()
    training.meter.save_began(0.0, 5.0)
    training.meter.save_failed()

    assert training.meter.cost() is None
