"""TrainingJobs on real pods: what a user sees when training goes well, and when it does not."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from e2e.jobs import attempts, counted, training_job
from e2e.kubectl import Kubectl
from e2e.waiting import condition, has_reason, is_true, wait_until

# Every rank meets the others before it goes on, so that a missing one is noticed.
GANG = """
import torch.distributed as dist
dist.init_process_group("gloo")
import torch
total = torch.ones(1)
dist.all_reduce(total)
print("ranks that met:", int(total), flush=True)
{then}
dist.barrier()
dist.destroy_process_group()
"""
# Until the file is there: it is made in the attempt that may end.
WAIT_IN_FIRST_ATTEMPT = """
import json, pathlib, time
if json.loads(pathlib.Path("/etc/lepton/attempt").read_text())["attempt"] == 1:
    time.sleep(3600)
"""
NO_GPU = {"requests": {"cpu": "100m"}}


def job_of(kubectl: Kubectl, name: str) -> dict[str, Any] | None:
    return kubectl.get("trainingjob", name)


def runs(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """Wait until all pods of a job run."""
    found = wait_until(
        lambda: job_of(kubectl, name), lambda job: has_reason(job, "Running"), "a pod runs"
    )
    assert found is not None
    return found


def completes(kubectl: Kubectl, name: str) -> dict[str, Any]:
    found = wait_until(
        lambda: job_of(kubectl, name),
        lambda job: is_true(job, "Complete") or is_true(job, "Failed"),
        "a job completes",
    )
    assert found is not None
    assert is_true(found, "Complete"), condition(found, "Failed")
    return found


def fails(kubectl: Kubectl, name: str) -> dict[str, Any]:
    found = wait_until(
        lambda: job_of(kubectl, name), lambda job: is_true(job, "Failed"), "a job fails"
    )
    assert found is not None
    assert is_true(found, "Stalled")
    assert condition(found, "Ready")["status"] == "False"
    return found


def gang(name: str, then: str = "", **spec: Any) -> dict[str, Any]:
    return training_job(name, GANG.format(then=then), image="torch", **{"numNodes": 2, **spec})


def test_two_pods_with_a_gpu_each_train_together(bare_namespace: Kubectl) -> None:
    bare_namespace.apply(gang("pair", numProcPerNode=2))
    job = completes(bare_namespace, "pair")
    assert [each["outcome"] for each in attempts(job)] == ["Succeeded"]
    assert "ranks that met: 4" in bare_namespace.logs("pair-train-1-0", "-c", "train")
    pod = bare_namespace.get("pod", "pair-train-1-1")
    assert pod is not None
    train = next(each for each in pod["spec"]["containers"] if each["name"] == "train")
    assert train["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_deleted_pod_is_replaced_and_the_other_keeps_its_place(
    bare_namespace: Kubectl, rank: int
) -> None:
    bare_namespace.apply(gang("lost", then=WAIT_IN_FIRST_ATTEMPT))
    runs(bare_namespace, "lost")
    kept = f"lost-train-1-{1 - rank}"
    before = bare_namespace.get("pod", kept)
    bare_namespace.delete("pod", f"lost-train-1-{rank}")
    job = completes(bare_namespace, "lost")
    first, second = attempts(job)
    assert (first["outcome"], first["reason"], first["budget"]) == (
        "Failed",
        "PodLost",
        "Infrastructure",
    )
    assert (second["outcome"], second["kept"]) == ("Succeeded", 1)
    assert counted(job) == {"infrastructure": 1}
    after = bare_namespace.get("pod", kept)
    assert before is not None
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["labels"]["lepton.ai/attempt"] == "2"
    pods = {pod["metadata"]["name"] for pod in bare_namespace.list("pods")}
    assert pods == {kept, f"lost-train-2-{rank}"}


KILL_RANK_THREE = f"""
import os, signal
if os.environ["LEPTON_GENERATION"] == "0" and os.environ["RANK"] == "3":
    os.kill(os.getpid(), {int(signal.SIGKILL)})
"""


def test_a_killed_rank_is_started_again_with_its_peers_in_their_pods(
    bare_namespace: Kubectl,
) -> None:
    bare_namespace.apply(gang("killed", then=KILL_RANK_THREE, numProcPerNode=2))
    job = completes(bare_namespace, "killed")
    (only,) = attempts(job)
    assert (only["outcome"], only["restarts"]) == ("Succeeded", 1)
    assert counted(job) == {"user": 1}


def test_a_killed_rank_ends_a_job_that_may_not_restart(bare_namespace: Kubectl) -> None:
    policy = {"maxRestarts": 0}
    bare_namespace.apply(
        gang("killed", then=KILL_RANK_THREE, numProcPerNode=2, failurePolicy=policy)
    )
    (only,) = attempts(fails(bare_namespace, "killed"))
    assert (only["rank"], only["signal"], only["budget"]) == (3, 9, "User")
    assert only["node"].startswith("node-")


def test_a_script_that_fails_ends_the_job_after_its_budget(bare_namespace: Kubectl) -> None:
    code = "raise ValueError('the learning rate is negative')"
    policy = {"maxRestarts": 1}
    bare_namespace.apply(training_job("wrong", code, resourcesPerNode=NO_GPU, failurePolicy=policy))
    job = fails(bare_namespace, "wrong")
    (only,) = attempts(job)
    assert (only["exitCode"], only["restarts"], counted(job)) == (1, 1, {"user": 1})
    assert only["lastErrorLine"] == "ValueError: the learning rate is negative"
    message = condition(job, "Stalled")["message"]
    assert "ValueError: the learning rate is negative" in message
    assert "kubectl replace --force -f" in message


def test_a_pattern_that_a_pod_finds_in_its_log_decides(bare_namespace: Kubectl) -> None:
    code = "import sys; print('step 7: loss is nan', file=sys.stderr); raise ValueError('diverged')"
    rule = {"match": {"messagePattern": "loss is (nan|inf)$"}, "action": "Fail"}
    policy = {"rules": [rule]}
    bare_namespace.apply(training_job("ruled", code, resourcesPerNode=NO_GPU, failurePolicy=policy))
    job = fails(bare_namespace, "ruled")
    assert [(each["reason"], each["rule"]) for each in attempts(job)] == [("UserError", 0)]
    assert condition(job, "Failed")["reason"] == "FailedByRule"


def test_a_pattern_that_is_none_ends_the_job_before_its_ranks_start(
    bare_namespace: Kubectl,
) -> None:
    rule = {"match": {"messagePattern": "loss is (nan"}, "action": "Fail"}
    policy = {"rules": [rule]}
    job = training_job("broken", "pass", resourcesPerNode=NO_GPU, failurePolicy=policy)
    bare_namespace.apply(job)
    found = fails(bare_namespace, "broken")
    assert condition(found, "Stalled")["reason"] == "InvalidSpec"
    assert "missing ): loss is (nan" in condition(found, "Stalled")["message"]
    assert len(attempts(found)) == 1


def test_a_job_that_leaves_no_model_fails_at_once(namespace: Kubectl) -> None:
    job = training_job("empty", "pass", resourcesPerNode=NO_GPU, output={"model": "empty"})
    namespace.apply(job)
    found = fails(namespace, "empty")
    assert len(attempts(found)) == 1
    assert attempts(found)[0]["reason"] == "NoModel"
    assert "model.onnx" in condition(found, "Stalled")["message"]


def test_an_output_without_a_store_waits_and_says_so(bare_namespace: Kubectl) -> None:
    job = training_job("storeless", "pass", resourcesPerNode=NO_GPU, output={"model": "storeless"})
    bare_namespace.apply(job)
    found = wait_until(
        lambda: job_of(bare_namespace, "storeless"),
        lambda each: has_reason(each, "NoStore"),
        "a pod runs",
    )
    assert is_true(found, "Reconciling")
    assert "lepton-store" in condition(found, "Ready")["message"]


def test_an_image_whose_user_is_root_runs_as_another(bare_namespace: Kubectl) -> None:
    # The pause of `debian`, the base below all our images: it names no user, so it is root's.
    code = "import os; print('user', os.getuid()); open('/tmp/x', 'w').close(); assert os.getuid()"
    bare_namespace.apply(training_job("rootless", code, image="debian", resourcesPerNode=NO_GPU))
    completes(bare_namespace, "rootless")
    assert "user 1000" in bare_namespace.logs("rootless-train-1-0", "-c", "train")


def test_a_suspended_job_gives_its_pods_back_and_goes_on_later(bare_namespace: Kubectl) -> None:
    code = WAIT_IN_FIRST_ATTEMPT
    bare_namespace.apply(training_job("paused", code, resourcesPerNode=NO_GPU))
    look = lambda: job_of(bare_namespace, "paused")  # noqa: E731 - read in three places below
    wait_until(look, lambda job: has_reason(job, "Running"), "a pod runs")
    bare_namespace.run("patch", "tj", "paused", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    wait_until(look, lambda job: is_true(job, "Suspended"), "ranks leave")
    wait_until(lambda: bare_namespace.list("pods"), lambda pods: not pods, "a pod is gone")
    bare_namespace.run("patch", "tj", "paused", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    job = completes(bare_namespace, "paused")
    assert [each["outcome"] for each in attempts(job)] == ["Suspended", "Succeeded"]
    assert counted(job) == {}


def test_a_deadline_ends_a_job(bare_namespace: Kubectl) -> None:
    code = "import time; time.sleep(3600)"
    job = training_job("late", code, resourcesPerNode=NO_GPU, activeDeadlineSeconds=8)
    bare_namespace.apply(job)
    assert condition(fails(bare_namespace, "late"), "Failed")["reason"] == "DeadlineExceeded"
    wait_until(
        lambda: [
            each
            for each in bare_namespace.list("pods")
            if each["status"]["phase"] not in ("Succeeded", "Failed")
        ],
        lambda running: not running,
        "a pod is gone",
    )


def test_a_finished_job_is_deleted_after_its_ttl(bare_namespace: Kubectl) -> None:
    job = training_job("brief", "pass", resourcesPerNode=NO_GPU, ttlSecondsAfterFinished=3)
    bare_namespace.apply(job)
    wait_until(lambda: job_of(bare_namespace, "brief"), lambda job: job is None, "a job completes")


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"image": "localhost/none:1"}, "ImageError", "localhost/none:1"),
        (
            {"resourcesPerNode": {"limits": {"nvidia.com/gpu": 100}}},
            "NoCapacity",
            "100",
        ),
    ],
    ids=["an image that cannot be pulled", "more GPUs than any node has"],
)
def test_what_a_person_elsewhere_must_mend_is_waited_for(
    bare_namespace: Kubectl, spec: dict[str, Any], reason: str, words: str
) -> None:
    job = training_job("waits", "pass")
    job["spec"] |= {"resourcesPerNode": NO_GPU} | spec
    bare_namespace.apply(job)
    found = wait_until(
        lambda: job_of(bare_namespace, "waits"),
        lambda each: has_reason(each, reason),
        "a pod runs",
    )
    assert is_true(found, "Reconciling")
    assert words in condition(found, "Ready")["message"]


def test_a_quota_is_told_and_waited_for(bare_namespace: Kubectl) -> None:
    limits = {"pods": "0"}
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": limits},
    }
    bare_namespace.apply(quota)
    # Nobody refuses a pod for it before he has heard of it.
    wait_until(
        lambda: (bare_namespace.get("resourcequota", "none") or {}).get("status", {}).get("hard"),
        lambda found: found == limits,
        "an object is seen",
    )
    bare_namespace.apply(training_job("poor", "pass", resourcesPerNode=NO_GPU))
    found = wait_until(
        lambda: job_of(bare_namespace, "poor"),
        lambda job: has_reason(job, "QuotaExceeded"),
        "a condition shows",
    )
    assert is_true(found, "Reconciling")
    bare_namespace.delete("resourcequota", "none")
    completes(bare_namespace, "poor")


def test_what_pods_are_told_comes_from_the_operator_only(bare_namespace: Kubectl) -> None:
    bare_namespace.apply(gang("told"))
    completes(bare_namespace, "told")
    pod = bare_namespace.get("pod", "told-train-1-1")
    assert pod is not None
    attempt = json.loads(pod["metadata"]["annotations"]["lepton.ai/attempt"])
    assert (attempt["attempt"], attempt["nodeRank"], attempt["numNodes"]) == (1, 1, 2)
    assert pod["spec"]["hostname"] == "told-train-1"
