"""Training jobs for tests: a few lines of Python in an image that holds none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from e2e.installation import image_references


def training_job(name: str, code: str, *, image: str = "agent", **spec: Any) -> dict[str, Any]:
    """Return a TrainingJob that runs this code in every rank.

    An entrypoint is a script or a module of the image. `timeit` is a module of every Python that
    runs a statement, which takes the code from the environment.
    """
    return {
        "apiVersion": "lepton.ai/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "image": image_references()[image],
            "entrypoint": ["-m", "timeit", "-n1", "-r1", "import os; exec(os.environ['CODE'], {})"],
            "env": [{"name": "CODE", "value": code}],
            **spec,
        },
    }


def model(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "lepton.ai/v1alpha1",
        "kind": "LeptonModel",
        "metadata": {"name": name},
        "spec": spec,
    }


def service(name: str, model_name: str = "", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "lepton.ai/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"model": {"name": model_name or name}, **spec},
    }


def attempts(job: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the attempts that a job's status lists."""
    found: list[dict[str, Any]] = (job or {}).get("status", {}).get("attempts", [])
    return found


def counted(job: Mapping[str, Any] | None) -> dict[str, int]:
    """Return the restarts that counted, by budget."""
    found = (job or {}).get("status", {}).get("restarts", {})
    budgets = ("user", "infrastructure", "preemption")
    return {name: found[name] for name in budgets if found.get(name)}
