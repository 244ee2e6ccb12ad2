"""torchrun's agent as a library: starts this node's ranks and says how each of them ended."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import signal
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from lepton_launcher.ending import leave_out_garbage
from lepton_launcher.exchange import write_atomically
from lepton_launcher.rank import launcher_command, rank_command

# The operator ends an attempt whose members do not come; a node may take hours to be provided.
_RENDEZVOUS_SECONDS = 7 * 24 * 3600
_MONITOR_SECONDS = 0.05
# Torch gives the peers of a rank that failed 30 s to answer SIGTERM; without it they save nothing.
_PEERS_SECONDS = 5
_RESULT = "result.json"


class Job(NamedTuple):
    """What the agent is told, as one JSON argument."""

    folder: str
    attempt: int
    node_rank: int
    num_nodes: int
    nproc_per_node: int
    endpoint: str
    shutdown_seconds: int
    entrypoint: list[str]


class Failure(NamedTuple):
    """A rank that did not end with 0; `status` is its exit code, or minus its signal."""

    rank: int
    local_rank: int
    status: int
    noticed_at: float


class Result(NamedTuple):
    """How the ranks ended; `error` is the agent's own trouble, before or beside them."""

    failures: list[Failure]
    error: str | None = None


def agent_command(job: Job) -> list[str]:
    """The command of the child that PID 1 starts for an attempt of several ranks."""
    return [*launcher_command(), "agent", json.dumps(job)]


def read_result(folder: Path) -> Result | None:
    """What the agent left behind; None if it died before it could."""
    try:
        found = json.loads((folder / _RESULT).read_bytes())
        return Result([Failure(*failure) for failure in found["failures"]], found["error"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def main(arguments: list[str]) -> int:
    """Run the ranks to their end and leave the result in the job's folder."""
    job = Job(*json.loads(arguments[0]))
    result = _result_of(job)
    write_atomically(Path(job.folder) / _RESULT, json.dumps(result._asdict()).encode())
    os.kill(os.getppid(), signal.SIGCHLD)  # PID 1 looks at once, as when this process has ended
    leave_out_garbage()
    return 1 if result.failures or result.error else 0


def _result_of(job: Job) -> Result:
    if importlib.util.find_spec("torch") is None:
        ranks = job.num_nodes * job.nproc_per_node
        return Result(
            [],
            f"This image's Python has no torch, which {ranks} ranks need to find each other: "
            "use an image with torch, or one node with one process.",
        )
    try:
        return _launch(job)
    except Exception as error:  # noqa: BLE001 - any failure of torch is this attempt's result
        traceback.print_exc()
        return Result([], f"torchrun's agent failed: {type(error).__name__}: {error}")


def _launch(job: Job) -> Result:
    api = importlib.import_module("torch.distributed.launcher.api")
    errors = importlib.import_module("torch.distributed.elastic.multiprocessing.errors")
    _hasten_peers(importlib.import_module("torch.distributed.elastic.multiprocessing.api"))
    if job.nproc_per_node > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the command torchrun does
    program, *arguments = rank_command(Path(job.folder), job.entrypoint)
    try:
        configuration = api.LaunchConfig(**_configuration(job, api.LaunchConfig))
        api.launch_agent(configuration, program, arguments)
    except errors.ChildFailedError as error:
        return Result([_failure(rank, found) for rank, found in error.failures.items()])
    return Result([])


def _hasten_peers(module: Any) -> None:
    """Shorten the patience with ranks whose peer has failed; a request to leave names its own."""
    close = module.PContext.close

    @functools.wraps(close)
    def hastened(context: Any, death_sig: Any = None, timeout: int = _PEERS_SECONDS) -> None:
        close(context, death_sig, timeout)

    module.PContext.close = hastened


def _failure(rank: int, found: Any) -> Failure:
    return Failure(rank, found.local_rank, found.exitcode, found.timestamp)


def _configuration(job: Job, config: type[Any]) -> dict[str, Any]:
    """The arguments of LaunchConfig, whose fields for logs and shutdown differ by version."""
    known = {field.name for field in dataclasses.fields(config)}
    logs = str(Path(job.folder) / "torch")
    chosen = {
        "min_nodes": job.num_nodes,
        "max_nodes": job.num_nodes,
        "nproc_per_node": job.nproc_per_node,
        "run_id": f"attempt-{job.attempt}",
        "rdzv_backend": "static",
        "rdzv_endpoint": job.endpoint,
        "rdzv_configs": {"rank": job.node_rank, "timeout": _RENDEZVOUS_SECONDS},
        "max_restarts": 0,
        "monitor_interval": _MONITOR_SECONDS,
    }
    if "shutdown_timeout" in known:
        chosen["shutdown_timeout"] = job.shutdown_seconds
    if "logs_specs" in known:
        logs_module = importlib.import_module("torch.distributed.elastic.multiprocessing")
        return {**chosen, "logs_specs": logs_module.DefaultLogsSpecs(log_dir=logs)}
    return {**chosen, "log_dir": logs}
