"""What is known of the cluster, whatever arrives late, twice or never."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_operator.cache import MAX_TOMBSTONE_SECONDS, Cache, Key
from lepton_operator.views import PodView, VersionUse
from tests.unit.door.cluster import kubernetes_service
from tests.unit.runtime import objects

JOB = Key("TrainingJob", "team", "digits")
MODEL = Key("LeptonModel", "team", "digits")
SERVICE = Key("InferenceService", "team", "digits")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> Cache:
    found = Cache("nvidia.com/gpu", clock)
    found.put("TrainingJob", objects.job(model="digits"))
    return found


def names(pods: tuple[PodView, ...]) -> list[str]:
    return [pod.name + (" (gone)" if pod.gone else "") for pod in pods]


def test_a_pod_is_found_by_its_owner(cache: Cache) -> None:
    cache.put("Pod", objects.pod("b", "pod-2"))
    cache.put("Pod", objects.pod("a", "pod-1"))
    cache.put("Pod", objects.pod("other", "pod-3", owner="job-2"))
    assert names(cache.pods("job-1")) == ["a", "b"]


def test_a_pod_of_another_namespace_is_nobodys_though_it_names_an_owner(cache: Cache) -> None:
    """Whoever may make pods anywhere could else end the jobs of everybody whose UID he knows."""
    forged = objects.pod("digits-train-1-0", "pod-9")
    forged["metadata"]["namespace"] = "strangers"
    change = cache.put("Pod", forged)
    assert change
    assert cache.affected(change) == set()
    assert cache.pods("job-1") == ()


def test_an_older_version_does_not_replace_a_newer_one(cache: Cache) -> None:
    cache.put("Pod", objects.pod(version=9, phase="Running"))
    assert cache.put("Pod", objects.pod(version=10, phase="Failed"))
    assert cache.put("Pod", objects.pod(version=9, phase="Running")) is None
    assert cache.pods("job-1")[0].phase == "Failed"


def test_versions_that_are_no_numbers_go_by_arrival(cache: Cache) -> None:
    cache.put("Pod", objects.pod(version="b-2", phase="Running"))
    assert cache.put("Pod", objects.pod(version="b-2", phase="Running")) is None
    cache.put("Pod", objects.pod(version="a-3", phase="Failed"))
    assert cache.pods("job-1")[0].phase == "Failed"


def test_what_no_plan_reads_is_no_change(cache: Cache) -> None:
    cache.put("Pod", objects.pod(version=1))
    touched = objects.pod(version=2)
    touched["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    assert cache.put("Pod", touched) is None


def test_a_deleted_pod_stays_with_its_last_state_until_it_is_forgotten(cache: Cache) -> None:
    cache.put("Pod", objects.pod(version=1))
    change = cache.remove("Pod", objects.pod(version=2, phase="Failed"))
    assert change
    assert cache.affected(change) == {JOB}
    (tombstone,) = cache.pods("job-1")
    assert (tombstone.gone, tombstone.phase) == (True, "Failed")
    cache.forget([tombstone])
    assert cache.pods("job-1") == ()


def test_a_deleted_uid_never_comes_back(cache: Cache) -> None:
    cache.put("Pod", objects.pod(version=1))
    cache.remove("Pod", objects.pod(version=2))
    assert cache.put("Pod", objects.pod(version=3)) is None
    assert names(cache.pods("job-1")) == ["digits-train-1-0 (gone)"]


def test_a_name_that_is_used_again_stands_beside_its_tombstone(cache: Cache) -> None:
    cache.put("Pod", objects.pod(uid="pod-1"))
    cache.remove("Pod", objects.pod(uid="pod-1", version=2))
    cache.put("Pod", objects.pod(uid="pod-2", version=3))
    assert sorted(pod.gone for pod in cache.pods("job-1")) == [False, True]


def test_the_last_state_is_taken_even_when_a_list_noticed_the_deletion_first(cache: Cache) -> None:
    cache.put("Pod", objects.pod(version=1, phase="Running"))
    cache.end_listing(cache.begin_listing("Pod"))
    cache.remove("Pod", objects.pod(version=5, phase="Failed"))
    assert [pod.phase for pod in cache.pods("job-1")] == ["Failed"]


def test_nobodys_tombstones_are_not_kept(cache: Cache) -> None:
    cache.put("Pod", objects.pod())
    cache.remove("TrainingJob", objects.job(version=2))
    cache.remove("Pod", objects.pod(version=3))
    assert cache.pods("job-1") == ()
    assert cache.counts()["tombstones"] == 0


def test_tombstones_wear_away_with_time(cache: Cache, clock: Clock) -> None:
    cache.remove("Pod", objects.pod("old", "pod-1"))
    clock.now += MAX_TOMBSTONE_SECONDS + 1
    cache.remove("Pod", objects.pod("new", "pod-2"))
    assert names(cache.pods("job-1")) == ["new (gone)"]


def test_tombstones_are_bounded_in_number(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton_operator.cache.MAX_TOMBSTONES", 3)
    for number in range(5):
        cache.remove("Pod", objects.pod(f"p{number}", f"pod-{number}"))
    assert names(cache.pods("job-1")) == ["p2 (gone)", "p3 (gone)", "p4 (gone)"]


def test_a_list_removes_what_it_should_have_held(cache: Cache) -> None:
    cache.put("Pod", objects.pod("a", "pod-1"))
    cache.put("Pod", objects.pod("b", "pod-2"))
    listing = cache.begin_listing("Pod")
    cache.take(listing, [objects.pod("b", "pod-2")])
    changes = cache.end_listing(listing)
    assert [cache.affected(change) for change in changes] == [{JOB}]
    assert names(cache.pods("job-1")) == ["a (gone)", "b"]


def test_a_list_does_not_remove_what_was_made_while_it_ran(cache: Cache) -> None:
    listing = cache.begin_listing("Pod")
    cache.put("Pod", objects.pod("a", "pod-1"))
    assert cache.end_listing(listing) == []
    assert names(cache.pods("job-1")) == ["a"]


def test_a_list_does_not_bring_back_what_was_deleted_while_it_ran(cache: Cache) -> None:
    cache.put("Pod", objects.pod("a", "pod-1"))
    listing = cache.begin_listing("Pod")
    cache.remove("Pod", objects.pod("a", "pod-1", version=2))
    assert cache.take(listing, [objects.pod("a", "pod-1", version=1)]) == []
    assert names(cache.pods("job-1")) == ["a (gone)"]


def test_a_list_of_one_owner_leaves_others_alone(cache: Cache) -> None:
    cache.put("Pod", objects.pod("mine", "pod-1"))
    cache.put("Pod", objects.pod("other", "pod-2", owner="job-2"))
    listing = cache.begin_listing(
        "Pod", lambda value: isinstance(value, PodView) and value.owner_uid == "job-1"
    )
    cache.end_listing(listing)
    assert names(cache.pods("job-1")) == ["mine (gone)"]
    assert names(cache.pods("job-2")) == ["other"]


def test_an_object_made_anew_under_its_old_name_is_another_one(cache: Cache) -> None:
    cache.put("TrainingJob", objects.job(uid="job-2", version=7))
    own = cache.own(JOB)
    assert own
    assert own.uid == "job-2"
    # The deletion of the first one is told late, and does not hit the second.
    cache.remove("TrainingJob", objects.job(uid="job-1", version=6))
    assert cache.own(JOB) is own


def test_a_job_wakes_its_model_when_it_comes_hands_its_result_over_and_goes(cache: Cache) -> None:
    began = cache.put("TrainingJob", objects.job("other", "job-2", model="digits"))
    output = {"output": {"model": "digits", "version": 1}}
    over = cache.put("TrainingJob", objects.job(version=2, model="digits", status=output))
    gone = cache.remove("TrainingJob", objects.job(version=3, model="digits", status=output))
    for change in (began, over, gone):
        assert change
        assert MODEL in cache.affected(change)


def test_a_job_that_only_goes_on_does_not_wake_its_model(cache: Cache) -> None:
    status = {"progress": {"step": 3}}
    change = cache.put("TrainingJob", objects.job(version=2, model="digits", status=status))
    assert change
    assert cache.affected(change) == {JOB}


def a_user(version: int, *, pinned: int | None = None, runs: tuple[int, ...] = ()) -> Any:
    body = objects.service(version=version)
    body["spec"]["model"] |= {"version": pinned} if pinned else {}
    return body | {"status": {"revisions": [{"version": each} for each in runs]}}


def test_a_model_is_woken_when_a_service_uses_other_versions_of_it(cache: Cache) -> None:
    woken = []
    for number, body in enumerate(
        (a_user(1), a_user(2, runs=(1,)), a_user(3, runs=(1,)), a_user(4, pinned=2, runs=(1,))), 1
    ):
        body["status"]["selector"] = str(number)
        change = cache.put("InferenceService", body)
        assert change
        woken.append(MODEL in cache.affected(change))
    assert woken == [False, True, False, True]
    assert cache.uses("team", "digits") == {VersionUse(1, False), VersionUse(2, True)}


def test_a_version_is_used_until_its_last_service_uses_it_no_more(cache: Cache) -> None:
    cache.put("InferenceService", a_user(1, runs=(1,)))
    other = objects.service("other", "svc-2") | {"status": {"revisions": [{"version": 1}]}}
    cache.put("InferenceService", other)
    cache.put("InferenceService", a_user(2, runs=(2,)))
    assert {each.version for each in cache.uses("team", "digits")} == {1, 2}
    change = cache.remove("InferenceService", other)
    assert change
    assert MODEL in cache.affected(change)
    assert {each.version for each in cache.uses("team", "digits")} == {2}
    cache.put("InferenceService", objects.service(version=3, model="else"))
    assert cache.uses("team", "digits") == frozenset()


def test_a_model_wakes_the_services_and_jobs_that_name_it(cache: Cache) -> None:
    cache.put("InferenceService", objects.service())
    cache.put("InferenceService", objects.service("other", "svc-2", model="else"))
    change = cache.put("LeptonModel", objects.model())
    assert change
    assert cache.affected(change) == {MODEL, JOB, SERVICE}
    assert cache.jobs("team", "digits") == [JOB]


def test_a_job_that_is_gone_is_no_user_of_its_model(cache: Cache) -> None:
    cache.remove("TrainingJob", objects.job(version=2, model="digits"))
    assert cache.jobs("team", "digits") == []


def test_a_pod_whose_owner_was_changed_is_the_first_owners_no_more(cache: Cache) -> None:
    cache.put("TrainingJob", objects.job("other", "job-2"))
    cache.put("Pod", objects.pod("a", owner="job-1"))
    change = cache.put("Pod", objects.pod("a", version=2, owner="job-2"))
    assert change
    assert cache.affected(change) == {JOB, Key("TrainingJob", "team", "other")}
    assert names(cache.pods("job-1")) == []
    assert names(cache.pods("job-2")) == ["a"]


def test_a_pod_of_a_job_that_is_gone_wakes_the_job_that_waits_for_its_name(cache: Cache) -> None:
    old = objects.pod("digits-train-1-0")
    old["metadata"]["labels"] = {"lepton.ai/kind": "TrainingJob", "lepton.ai/name": "digits"}
    cache.put("Pod", old)
    cache.put("TrainingJob", objects.job(uid="job-2", version=7))
    change = cache.remove("Pod", old)
    assert change
    assert cache.affected(change) == {JOB}


def test_a_node_wakes_the_owners_of_its_pods_and_of_those_without_a_node(cache: Cache) -> None:
    for number, place in ((1, "n1"), (2, "n2"), (3, None)):
        cache.put("TrainingJob", objects.job(f"j{number}", f"j-{number}"))
        cache.put("Pod", objects.pod(f"p{number}", f"p-{number}", owner=f"j-{number}", node=place))
    cache.put("Node", objects.node("n1"))
    change = cache.put("Node", objects.node("n1", version=2, ready=False))
    assert change
    woken = {key.name for key in cache.affected(change)}
    assert woken == {"j1", "j3"}
    assert [(each.name, each.ready, each.gpus) for each in cache.nodes()] == [("n1", False, 8)]


def test_a_nodes_heartbeat_is_no_change(cache: Cache) -> None:
    cache.put("Node", objects.node("n1"))
    beat = objects.node("n1", version=2)
    beat["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-11-22T05:00:00Z"
    assert cache.put("Node", beat) is None


_EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 9), st.booleans()), min_size=1, max_size=30
)


@given(events=_EVENTS)
def test_in_any_order_the_newest_state_wins_and_deletion_is_final(
    events: list[tuple[int, int, bool]],
) -> None:
    cache = Cache("nvidia.com/gpu")
    cache.put("TrainingJob", objects.job())
    newest: dict[str, int] = {}
    deleted: set[str] = set()
    for pod, version, deletes in events:
        uid = f"pod-{pod}"
        body: dict[str, Any] = objects.pod(f"p{pod}", uid, version)
        body["status"]["reason"] = str(version)
        if deletes:
            cache.remove("Pod", body)
            deleted.add(uid)
        else:
            cache.put("Pod", body)
            newest[uid] = max(newest.get(uid, 0), version)
    found = {pod.uid: pod for pod in cache.pods("job-1")}
    assert set(found) == set(newest) | deleted
    for uid, pod_view in found.items():
        assert pod_view.gone == (uid in deleted)
        if uid not in deleted:
            assert pod_view.reason == str(newest[uid])


def a_service_on(port: int, name: str, version: int, created: str = objects.CREATED) -> Any:
    body = kubernetes_service(name, f"owner-of-{name}", port, created)
    body["metadata"]["resourceVersion"] = str(version)
    return body


EARLIER = "2026-11-22T03:00:00Z"


def test_a_port_of_the_door_belongs_to_the_oldest_service_that_leads_there(cache: Cache) -> None:
    cache.put("Service", a_service_on(10_000, "young", 1))
    assert cache.ports("team")[10_000].name == "young"
    old = a_service_on(10_000, "old", 2, EARLIER)
    cache.put("Service", old)
    assert cache.ports("team")[10_000].name == "old"
    cache.remove("Service", old)
    assert cache.ports("team")[10_000].name == "young"
    cache.put("Service", a_service_on(10_001, "young", 3))
    assert dict(cache.ports("team")).keys() == {10_001}
    assert not cache.ports("other")


def test_who_leads_to_the_same_port_is_looked_at_too(cache: Cache) -> None:
    for name in ("young", "old"):
        cache.put("InferenceService", objects.service(name, f"owner-of-{name}"))
    cache.put("Service", a_service_on(10_000, "young", 1))
    change = cache.put("Service", a_service_on(10_000, "old", 2, EARLIER))
    assert change
    assert {key.name for key in cache.affected(change)} == {"young", "old"}
