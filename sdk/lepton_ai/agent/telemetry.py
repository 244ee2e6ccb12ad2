"""What a training pod's sidecar tells over HTTP: /progress for the operator, /metrics to scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from lepton_ai.agent import pages
from lepton_ai.progress import Progress, read_progress


class ProgressCollector(Collector):
    """The metrics of one pod, read from its launcher's last word when they are asked for."""

    def __init__(self, exchange: Path, job: str) -> None:
        self._exchange = exchange
        self._job = job

    def collect(self) -> Iterator[Metric]:
        """Yield what is known; before the first word, nothing."""
        progress = read_progress(self._exchange)
        if progress is None:
            return
        yield from self._of_pod(progress)
        yield from self._of_checkpoint(progress)
        yield from self._of_ranks(progress)
        yield self._labelled("phase", "where the ranks are", "phase", {progress.phase: 1})
        yield self._labelled("metric", "what the script reports", "metric", progress.metrics)

    def _of_pod(self, progress: Progress) -> Iterator[Metric]:
        counted = progress.counted_restarts
        facts = {
            "attempt": ("number of the attempt", progress.attempt),
            "generation": ("starts of the ranks in this pod, from 0", progress.generation),
            "step": ("last step that the slowest rank has done", progress.step),
            "steps": ("steps there will be", progress.total_steps),
            "step_seconds": ("recent mean time of a step", progress.step_seconds),
            "eta_seconds": ("time that the remaining steps take", progress.eta_seconds),
            "learning_rate": ("of the optimizer's first group", progress.learning_rate),
            "counted_restarts": ("restarts in this pod that got no further", counted),
            "samples": ("samples seen", progress.samples),
        }
        yield from self._gauges(facts)

    def _of_checkpoint(self, progress: Progress) -> Iterator[Metric]:
        checkpoint = progress.checkpoint
        if checkpoint is None:
            return
        facts = {
            "checkpoint_step": ("step of the last complete checkpoint", checkpoint.step),
            "checkpoint_age_seconds": ("time since it was complete", checkpoint.age_seconds),
            "checkpoint_seconds": ("how long saving it took", checkpoint.seconds),
        }
        yield from self._gauges(facts)

    def _of_ranks(self, progress: Progress) -> Iterator[Metric]:
        def by_rank(field: str) -> dict[str, float]:
            each = ((str(rank.rank), getattr(rank, field)) for rank in progress.ranks)
            return {rank: value for rank, value in each if value is not None}

        helps = {
            "step": "last step of a rank",
            "silent_seconds": "time since its last step",
            "own_seconds": "recent median time of its step outside collectives",
        }
        for field, text in helps.items():
            yield self._labelled(f"rank_{field}", text, "rank", by_rank(field))
        slow = {str(progress.slow.rank): progress.slow.factor} if progress.slow else {}
        text = "how many times as long as the others a slow rank takes"
        yield self._labelled("slow_rank_factor", text, "rank", slow)

    def _gauges(self, facts: Mapping[str, tuple[str, float | None]]) -> Iterator[Metric]:
        for name, (text, value) in facts.items():
            if value is not None:
                gauge = GaugeMetricFamily(f"lepton_training_{name}", text, labels=["training_job"])
                gauge.add_metric([self._job], value)
                yield gauge

    def _labelled(self, name: str, text: str, label: str, values: dict[str, float]) -> Metric:
        labels = ["training_job", label]
        gauge = GaugeMetricFamily(f"lepton_training_{name}", text, labels=labels)
        for key, value in values.items():
            gauge.add_metric([self._job, key], value)
        return gauge


def serve(exchange: Path, job: str, port: int, problem: Callable[[Progress], str | None]) -> None:
    """Answer in a thread; a port that is taken costs the page, never the run.

    Args:
        exchange: where the launcher writes how far its ranks are.
        job: the TrainingJob, as a label.
        port: of /progress and /metrics.
        problem: what is wrong with the checkpoints, if anything is.

    """
    registry = CollectorRegistry()
    registry.register(ProgressCollector(exchange, job))

    def tell_progress() -> pages.Page:
        progress = read_progress(exchange)
        if progress is None:
            return pages.not_found("No rank of this pod has begun yet.")
        found = progress.model_copy(update={"checkpoint_problem": problem(progress)})
        return pages.document(found.to_dict())

    def tell_metrics() -> pages.Page:
        return pages.Page(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry))

    pages.serve(port, {"/progress": tell_progress, "/metrics": tell_metrics})
