"""Objects that must be refused, and the sentence that a person gets: by kubectl and by pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ENTRYPOINT = {"entrypoint": ["train.py"]}
DIGEST = f"sha256:{'a' * 64}"


@dataclass(frozen=True, slots=True)
class Bad:
    """A spec, and a part of the sentence that refuses it.

    A `rule` is said by both; what is the schema's own business (a bound, a type, an unknown field)
    has other words in pydantic, which must refuse it all the same.
    """

    case: str
    kind: str
    spec: Mapping[str, Any]
    sentence: str
    rule: bool = True


def job(case: str, sentence: str, *, rule: bool = True, **spec: Any) -> Bad:
    return Bad(case, "TrainingJob", ENTRYPOINT | spec, sentence, rule)


def model(case: str, sentence: str, *, rule: bool = True, **spec: Any) -> Bad:
    return Bad(case, "LeptonModel", spec, sentence, rule)


def service(case: str, sentence: str, *, rule: bool = True, **spec: Any) -> Bad:
    return Bad(case, "InferenceService", {"model": {"name": "m"}} | spec, sentence, rule)


# A wrong value of each field of an InferenceService that says how it is served, with a part of the
# API server's own sentence: it names the field, and what it takes.
SERVED_BADLY: tuple[tuple[str, Mapping[str, Any], str], ...] = (
    ("batching by a word", {"batching": "large"}, "must be of type object"),
    ("a batch in words", {"batching": {"maxBatchSize": "eight"}}, "must be of type integer"),
    ("half a batch", {"batching": {"maxBatchSize": 2.5}}, "must be of type integer"),
    ("one preferred size", {"batching": {"preferredBatchSizes": 8}}, "must be of type array"),
    ("no preferred size", {"batching": {"preferredBatchSizes": [0]}}, "greater than or equal to 1"),
    ("sizes without end", {"batching": {"preferredBatchSizes": [1] * 17}}, "at most 16 items"),
    (
        "a delay before now",
        {"batching": {"maxQueueDelayMicroseconds": -1}},
        "greater than or equal to 0",
    ),
    (
        "a delay of a minute",
        {"batching": {"maxQueueDelayMicroseconds": 60_000_000}},
        "less than or equal to 1",
    ),
    ("a body with a unit", {"limits": {"bodyBytes": "64Mi"}}, "must be of type integer"),
    ("no body", {"limits": {"bodyBytes": 0}}, "greater than or equal to 1"),
    ("no time", {"limits": {"timeoutSeconds": 0}}, "greater than or equal to 1"),
    ("a time in words", {"limits": {"timeoutSeconds": "5m"}}, "must be of type integer"),
    ("nobody at once", {"limits": {"concurrency": 0}}, "greater than or equal to 1"),
    ("everybody at once", {"limits": {"concurrency": 1_000_001}}, "less than or equal to 1"),
    ("less than no queue", {"limits": {"queue": -1}}, "greater than or equal to 0"),
    ("a limit that is none", {"limits": {"rate": 5}}, 'unknown field "spec.limits.rate"'),
    ("instances by a word", {"triton": {"instances": "auto"}}, "must be of type integer"),
    ("too many instances", {"triton": {"instances": 65}}, "less than or equal to 64"),
    ("a cache of a number", {"triton": {"responseCache": 64}}, "must be of type string"),
    ("a cache of nothing", {"triton": {"responseCache": "0Mi"}}, "should match"),
    ("eleven priorities", {"triton": {"priorityLevels": 11}}, "less than or equal to 10"),
    ("Triton's own flags", {"triton": {"args": []}}, 'unknown field "spec.triton.args"'),
    ("another strategy", {"rollout": {"strategy": "BlueGreen"}}, "Unsupported value"),
    (
        "a surge in the past",
        {"rollout": {"surgeTimeoutSeconds": -1}},
        "greater than or equal to 0",
    ),
    ("a drain in words", {"rollout": {"drainTimeoutSeconds": "5m"}}, "must be of type integer"),
    (
        "a drain of days",
        {"rollout": {"drainTimeoutSeconds": 86_401}},
        "less than or equal to 86400",
    ),
    ("a restart at no time", {"rollout": {"restartedAt": "now"}}, "restartedAt"),
    ("a share of evictions", {"disruption": {"maxUnavailable": "50%"}}, "must be of type integer"),
    (
        "less than no evictions",
        {"disruption": {"maxUnavailable": -1}},
        "greater than or equal to 0",
    ),
    ("an eviction in words", {"disruption": {"safeToEvict": "never"}}, "must be of type boolean"),
    ("a spread over no label", {"spread": {"topologyKey": "a b"}}, "should match"),
    ("a spread at any price", {"spread": {"whenUnsatisfiable": "Always"}}, "Unsupported value"),
    ("space in words", {"scratchSpace": "lots"}, "scratchSpace"),
)


SCALED: dict[str, Any] = {"maxReplicas": 3, "target": {"latencyMilliseconds": 500}}


def scheduled(**schedule: Any) -> dict[str, Any]:
    return SCALED | {"schedules": [{"start": "0 8 * * *", "end": "0 18 * * *"} | schedule]}


BAD = (
    job("a flag of torchrun", "torchrun's own flags", entrypoint=["--nnodes=2", "train.py"]),
    job("a module without its name", "'-m' and a module", entrypoint=["-m"]),
    job("an empty entrypoint", "at least 1 items", entrypoint=[], rule=False),
    job("a variable of the operator's", "LEPTON_", env=[{"name": "LEPTON_X", "value": "1"}]),
    job(
        "an environment that no object holds",
        "names and values together are at most 131072 characters",
        env=[{"name": f"V{number}", "value": "x" * 180} for number in range(1000)],
    ),
    job(
        "an environment that is too much in 4,000 pods",
        "it is in each of the numNodes pods",
        env=[{"name": f"V{number}", "value": "x" * 30} for number in range(1000)],
        numNodes=4000,
    ),
    job("a label of the operator's", "podLabels: keys under", podLabels={"lepton.ai/rank": "0"}),
    job(
        "an annotation that unconfines",
        "can change what a pod may do",
        podAnnotations={"container.apparmor.security.beta.kubernetes.io/train": "unconfined"},
    ),
    job(
        "an annotation that attaches another network",
        "can change what a pod may do",
        podAnnotations={"k8s.v1.cni.cncf.io/networks": "host"},
    ),
    job(
        "the store's keys for the script",
        "which training containers never see",
        envFromSecret="lepton-store",
    ),
    job(
        "the priority of the cluster's own pods",
        "would evict others' pods",
        priorityClassName="system-node-critical",
    ),
    job("a label key too long", "must match", podLabels={"a" * 64: "b"}, rule=False),
    job("a label key with a space", "must match", podLabels={"a b": "c"}, rule=False),
    job(
        "a volume over the launcher",
        "mountPath must not be",
        volumes=[{"name": "a", "claimName": "a", "mountPath": "/lepton/exchange"}],
    ),
    job(
        "a volume that climbs",
        "nor contain '..'",
        volumes=[{"name": "a", "claimName": "a", "mountPath": "/data/../lepton"}],
    ),
    job(
        "a volume over the launcher by another spelling",
        "'//' or '/./'",
        volumes=[{"name": "a", "claimName": "a", "mountPath": "//lepton"}],
    ),
    job(
        "one path for two volumes",
        "may be used once",
        volumes=[
            {"name": "a", "claimName": "a", "mountPath": "/data"},
            {"name": "b", "claimName": "b", "mountPath": "/data"},
        ],
    ),
    job("no processes", "from 1 to 64, or auto", numProcPerNode=0),
    job(
        "a word for a number of processes",
        "from 1 to 64, or auto",
        rule=False,
        numProcPerNode="many",
    ),
    job("no nodes", "greater than or equal to 1", numNodes=0, rule=False),
    job("too many nodes", "less than or equal to 4096", numNodes=5000, rule=False),
    job("root", "greater than or equal to 1", runAsUser=0, rule=False),
    job(
        "fewer than no GPUs",
        "not negative",
        resourcesPerNode={"limits": {"nvidia.com/gpu": -1}},
    ),
    job(
        "a unit that is none",
        "should match",
        resourcesPerNode={"limits": {"memory": "1Q"}},
        rule=False,
    ),
    job("an unknown field", 'unknown field "spec.nodes"', nodes=2, rule=False),
    job("a pod's own fields", 'unknown field "spec.template"', template={}, rule=False),
    job("an image with a line break", "should match", image="a\nb", rule=False),
    job("a model's name in capitals", "should match", output={"model": "BAD"}, rule=False),
    job(
        "a negative budget",
        "greater than or equal to 0",
        failurePolicy={"maxRestarts": -1},
        rule=False,
    ),
    job("checkpoints nowhere", "name one of spec.volumes", checkpoint={"volume": "state"}),
    job(
        "checkpoints in two places",
        "checkpoint: give either uri",
        volumes=[{"name": "a", "claimName": "a", "mountPath": "/a"}],
        checkpoint={"volume": "a", "uri": "lepton-store://checkpoints"},
    ),
    job("checkpoints in no place", "checkpoint: give either uri", checkpoint={"keep": 5}),
    *(
        job(
            f"checkpoints at {uri}",
            "checkpoint.uri: lepton-store://PREFIX",
            checkpoint={"uri": uri},
        )
        for uri in (
            "lepton-store://",
            "file:///etc/lepton/store",
            "s3://bucket/../models",
            "s3://bucket//team",
            "s3://bucket/$(HOME)",
            "s3://bucket/team\n",
        )
    ),
    job(
        "checkpoints where nothing can be written",
        "name one of spec.volumes that is not readOnly",
        volumes=[{"name": "a", "claimName": "a", "mountPath": "/a", "readOnly": True}],
        checkpoint={"volume": "a"},
    ),
    job(
        "a save without end",
        "intervalSeconds: a number of seconds",
        volumes=[{"name": "a", "claimName": "a", "mountPath": "/a"}],
        checkpoint={"volume": "a", "intervalSeconds": 0},
    ),
    job(
        "no checkpoint kept",
        "greater than or equal to 1",
        volumes=[{"name": "a", "claimName": "a", "mountPath": "/a"}],
        checkpoint={"volume": "a", "keep": 0},
        rule=False,
    ),
    job(
        "a hang before anything can have happened",
        "from 10 to 604800, or auto",
        failurePolicy={"hangTimeoutSeconds": 1},
    ),
    job(
        "a hang by another word",
        "from 10 to 604800, or auto",
        failurePolicy={"hangTimeoutSeconds": "off"},
        rule=False,
    ),
    job(
        "a start that may last no time",
        "greater than or equal to 10",
        failurePolicy={"hangStartupSeconds": 0},
        rule=False,
    ),
    job(
        "a rule about every failure",
        "a match needs exitCodes",
        failurePolicy={"rules": [{"match": {}, "action": "Fail"}]},
    ),
    job(
        "a rule about every failure, by an empty list",
        "a match needs exitCodes",
        failurePolicy={"rules": [{"match": {"exitCodes": []}, "action": "Fail"}]},
    ),
    job(
        "a rule about a class that does not exist",
        "Unsupported value",
        failurePolicy={"rules": [{"match": {"reasons": ["Hung"]}, "action": "Fail"}]},
        rule=False,
    ),
    job(
        "a rule about success",
        "greater than or equal to 1",
        failurePolicy={"rules": [{"match": {"exitCodes": [0]}, "action": "Fail"}]},
        rule=False,
    ),
    job(
        "an action that does not exist",
        "Unsupported value",
        failurePolicy={"rules": [{"match": {"exitCodes": [1]}, "action": "Retry"}]},
        rule=False,
    ),
    job(
        "a pattern without end",
        "Too long",
        failurePolicy={"rules": [{"match": {"messagePattern": "a" * 513}, "action": "Fail"}]},
        rule=False,
    ),
    job(
        "rules without end",
        "must have at most 16 items",
        failurePolicy={"rules": [{"match": {"exitCodes": [1]}, "action": "Fail"}] * 17},
        rule=False,
    ),
    model(
        "a scheme that is not read",
        "should match",
        source={"uri": "ftp://a/b", "digest": DIGEST},
        rule=False,
    ),
    model("a source without a digest", "Required", source={"uri": "s3://a/b"}, rule=False),
    model(
        "a digest that is none",
        "should match",
        source={"uri": "s3://a/b", "digest": "abc"},
        rule=False,
    ),
    model(
        "a path that climbs",
        "must not contain '..'",
        source={"uri": "pvc://a/../b", "digest": DIGEST},
    ),
    model(
        "a path that climbs by escaped dots",
        "nor an escaped dot",
        source={"uri": "s3://a/%2E%2e/b", "digest": DIGEST},
    ),
    model(
        "two sources at once",
        'unknown field "spec.source.pvc"',
        source={"uri": "s3://a/b", "digest": DIGEST, "pvc": "a"},
        rule=False,
    ),
    model(
        "a threshold without a bound",
        "give a minimum, a maximum, or both",
        evaluation={"thresholds": [{"metric": "accuracy"}]},
    ),
    model(
        "bounds that exclude everything",
        "minimum must not be above maximum",
        evaluation={"thresholds": [{"metric": "accuracy", "minimum": "0.9", "maximum": "0.5"}]},
    ),
    model(
        "a number instead of a decimal in quotes",
        "must be of type string",
        evaluation={"thresholds": [{"metric": "accuracy", "minimum": 0.9}]},
        rule=False,
    ),
    service("fewer than no replicas", "greater than or equal to 0", replicas=-1, rule=False),
    service(
        "version zero", "greater than or equal to 1", model={"name": "m", "version": 0}, rule=False
    ),
    service(
        "a restart before there was time",
        "between the years 1970 and 8999",
        rollout={"restartedAt": "0001-01-01T00:00:00+14:00"},
    ),
    service(
        "a version that no model reaches",
        "less than or equal to 2",  # the API server may write so large a bound as a float
        model={"name": "m", "version": 2**31},
        rule=False,
    ),
    service(
        "a preferred batch above the largest",
        "no size in preferredBatchSizes may be above maxBatchSize",
        batching={"maxBatchSize": 8, "preferredBatchSizes": [4, 16]},
    ),
    service(
        "a batch of nothing",
        "greater than or equal to 1",
        batching={"maxBatchSize": 0},
        rule=False,
    ),
    service("no instance", "greater than or equal to 1", triton={"instances": 0}, rule=False),
    service(
        "a single priority", "greater than or equal to 2", triton={"priorityLevels": 1}, rule=False
    ),
    service("a cache of a few bytes", "should match", triton={"responseCache": "500"}, rule=False),
    service(
        "a cache with an option of its own",
        "should match",
        triton={"responseCache": "9Mi,x=1"},
        rule=False,
    ),
    service(
        "a body that no door lets through",
        "less than or equal to 1",
        limits={"bodyBytes": 2**31},
        rule=False,
    ),
    service("a service without a model", "Required", model={}, rule=False),
    *(service(case, said, rule=False, **spec) for case, spec, said in SERVED_BADLY),
    service(
        "a minimum above the maximum",
        "minReplicas may not be above maxReplicas",
        autoscaling=SCALED | {"minReplicas": 5, "maxReplicas": 3},
    ),
    service(
        "a latency of nothing",
        "greater than or equal to 1",
        autoscaling=SCALED | {"target": {"latencyMilliseconds": 0}},
        rule=False,
    ),
    service(
        "a percentile of all requests",
        "percentile is from 50 to 99.9",
        autoscaling=SCALED | {"target": {"latencyMilliseconds": 500, "percentile": 100}},
    ),
    service(
        "a percentile of few requests",
        "percentile is from 50 to 99.9",
        autoscaling=SCALED | {"target": {"latencyMilliseconds": 500, "percentile": 49.9}},
    ),
    service(
        "no replicas at most",
        "is invalid: spec.autoscaling.maxReplicas: Invalid value",  # and nothing else is
        autoscaling=SCALED | {"maxReplicas": 0},
        rule=False,
    ),
    service(
        "no replicas at most, at a time",
        "is invalid: spec.autoscaling.schedules[0].maxReplicas: Invalid value",
        autoscaling=scheduled(maxReplicas=0),
        rule=False,
    ),
    service(
        "a schedule in a zone that cannot be one",
        "timeZone is one of IANA's names",
        autoscaling=scheduled(timeZone="next to Berlin", minReplicas=2),
    ),
    service(
        "a schedule in no zone",
        "timeZone is one of IANA's names",
        autoscaling=scheduled(timeZone="", minReplicas=2),
    ),
    service(
        "a schedule that changes nothing",
        "set at least one",
        autoscaling=scheduled(),
    ),
    service(
        "a schedule with a minimum above its maximum",
        "schedules: minReplicas may not be above maxReplicas",
        autoscaling=scheduled(minReplicas=3, maxReplicas=2),
    ),
    service(
        "a schedule with a minimum above the maximum of all times",
        "a minReplicas above autoscaling.maxReplicas needs a maxReplicas beside it",
        autoscaling=scheduled(minReplicas=50),
    ),
    service(
        "a schedule with a maximum below the minimum of all times",
        "a maxReplicas below autoscaling.minReplicas needs a minReplicas beside it",
        autoscaling=scheduled(maxReplicas=1) | {"minReplicas": 2},
    ),
    *(
        service(
            f"a schedule for {start}",
            "five fields, e.g. `0 8 * * 1-5`",
            autoscaling=scheduled(start=start, minReplicas=2),
        )
        for start in (
            *("1 * */99999 * 5L", "1 0 LW * */31", "0 0 * 2 1#5", "0 8 * JUNE MON"),
            *("0 8 * *", "0 0 8 * * 1-5", "@daily", "0 8 ? * MON", "0 8 * * *\n"),
        )
    ),
)
