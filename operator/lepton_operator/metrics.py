"""Prometheus metrics under the names of controller-runtime, so that its dashboards work."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

QUEUE = "lepton-operator"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_RECONCILE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_QUEUE_SECONDS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100, 1000)
_REQUEST_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)


class Metrics:
    """Every metric of the operator, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        PlatformCollector(registry=self.registry)
        ProcessCollector(registry=self.registry)
        self._reconciles()
        self._queue()
        self._client()
        self._leader()
        self._door()
        self._scaling()

    def render(self) -> bytes:
        """Return all of them in Prometheus's text format."""
        return generate_latest(self.registry)

    def _reconciles(self) -> None:
        controller = ["controller"]
        self.reconciles = Counter(
            "controller_runtime_reconcile_total",
            "Passes by their result: success, requeue, requeue_after, error.",
            [*controller, "result"],
            registry=self.registry,
        )
        self.reconcile_errors = Counter(
            "controller_runtime_reconcile_errors_total",
            "Passes that ended with an error.",
            controller,
            registry=self.registry,
        )
        self.terminal_errors = Counter(
            "controller_runtime_terminal_reconcile_errors_total",
            "Passes that only a change of their object can mend.",
            controller,
            registry=self.registry,
        )
        self.panics = Counter(
            "controller_runtime_reconcile_panics_total",
            "Passes that ended with an exception that nobody expected.",
            controller,
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Time of a pass.",
            controller,
            buckets=_RECONCILE_SECONDS,
            registry=self.registry,
        )
        self.max_workers = Gauge(
            "controller_runtime_max_concurrent_reconciles",
            "Workers; the kinds share them.",
            controller,
            registry=self.registry,
        )
        self.active_workers = Gauge(
            "controller_runtime_active_workers",
            "Workers in a pass.",
            controller,
            registry=self.registry,
        )

    def _queue(self) -> None:
        name = ["name"]
        self.depth = Gauge(
            "workqueue_depth", "Keys that wait for a worker.", name, registry=self.registry
        ).labels(QUEUE)
        self.adds = Counter(
            "workqueue_adds_total", "Keys that were put in.", name, registry=self.registry
        ).labels(QUEUE)
        self.retries = Counter(
            "workqueue_retries_total",
            "Keys that were put in again after an error.",
            name,
            registry=self.registry,
        ).labels(QUEUE)
        self.queue_seconds = Histogram(
            "workqueue_queue_duration_seconds",
            "Time that a key waited for a worker.",
            name,
            buckets=_QUEUE_SECONDS,
            registry=self.registry,
        ).labels(QUEUE)
        self.work_seconds = Histogram(
            "workqueue_work_duration_seconds",
            "Time that a worker had a key.",
            name,
            buckets=_QUEUE_SECONDS,
            registry=self.registry,
        ).labels(QUEUE)
        self.unfinished_seconds = Gauge(
            "workqueue_unfinished_work_seconds",
            "Sum of the time that keys are with a worker now.",
            name,
            registry=self.registry,
        ).labels(QUEUE)
        self.longest_seconds = Gauge(
            "workqueue_longest_running_processor_seconds",
            "Longest time that a key is with a worker now.",
            name,
            registry=self.registry,
        ).labels(QUEUE)

    def _client(self) -> None:
        self.requests = Counter(
            "rest_client_requests_total",
            "Requests to the API server by their HTTP status; <error> where there was no answer.",
            ["code", "method"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "rest_client_request_duration_seconds",
            "Time until the API server had answered.",
            ["verb"],
            buckets=_REQUEST_SECONDS,
            registry=self.registry,
        )
        self.watch_requests = Counter(
            "lepton_watch_requests_total",
            "Watches that were begun or begun again, by resource.",
            ["resource"],
            registry=self.registry,
        )
        self.relists = Counter(
            "lepton_relists_total",
            "Times that a resource was listed anew, by resource.",
            ["resource"],
            registry=self.registry,
        )

    def _leader(self) -> None:
        self.leader = Gauge(
            "leader_election_master_status",
            "1 while this process holds the Lease.",
            ["name"],
            registry=self.registry,
        )
        self.slow_leader = Counter(
            "leader_election_slowpath_total",
            "Renewals of the Lease that had to be tried again.",
            ["name"],
            registry=self.registry,
        )

    def _door(self) -> None:
        kind = ["kind"]
        self.door_streams = Gauge(
            "lepton_door_streams",
            "Doors that are connected.",
            ["namespace"],
            registry=self.registry,
        )
        self.door_pushes = Counter(
            "lepton_door_pushes_total",
            "Answers that were sent to doors, by the kind of their resources.",
            kind,
            registry=self.registry,
        )
        self.door_nacks = Counter(
            "lepton_door_nacks_total",
            "Answers that a door refused, by the kind of their resources.",
            kind,
            registry=self.registry,
        )
        self.door_strangers = Counter(
            "lepton_door_strangers_total",
            "Streams that were refused because the client's certificate names no door.",
            registry=self.registry,
        )

    def _scaling(self) -> None:
        self.scalings = Counter(
            "lepton_autoscaler_scalings_total",
            "Changes of a service's replicas, by their direction: up, down.",
            ["direction"],
            registry=self.registry,
        )
        self.scaling_seconds = Histogram(
            "lepton_autoscaler_look_cpu_seconds",
            "CPU time of a look at all services that ask for a latency.",
            buckets=_REQUEST_SECONDS,
            registry=self.registry,
        )
