"""Every deadline of the tests on a cluster, in one table. They bound a failure, not a speed.

Pods start in 1 to 3 s when nothing else runs; on two busy cores ten of them take half a minute.
"""

from __future__ import annotations

DEADLINES_SECONDS = {
    "a server answers": 60,
    "an object is seen": 15,
    "all requests end": 20,  # each has 10 s
    "a condition shows": 30,
    "scaling is told": 75,  # 30 s of patience with what may pass by itself
    "a service is scaled": 45,
    "a load is forgotten": 120,  # what it was worth to have pods for it
    "a pod is named": 45,  # ten requests that fail, two looks of the door
    "a pod runs": 90,
    "a pod is gone": 90,
    "a node is not ready": 60,
    "a node is ready": 90,
    "a training runs": 120,
    "a step is done": 15,
    "a training goes on": 240,
    "a job completes": 240,
    "a long job completes": 480,
    "a job fails": 180,
    "an attempt is closed": 120,  # up to 20 s until a node is NotReady, and 30 s of patience
    "a script ends": 300,  # four trainings of one epoch
    "checkpoints are tried": 400,  # twenty trainings of two ranks, two minutes on busy cores
    "ranks are tried": 240,  # six gangs of two ranks
    "recipes are tried": 600,  # sixteen trainings in gangs, one to two minutes alone
    "ten seeds are trained": 1800,
    "a version is listed": 90,
    "a model is ready": 150,
    "a service is ready": 150,
    "a rollout is done": 180,
    "KEDA answers": 240,  # the kubelet puts the certificates that it made into its pods within 90 s
    "an HPA acts": 120,  # it looks each 15 s; a pod of Triton has to start
    "the operator leads": 120,  # its imports are 2.6 s of CPU, half a minute on busy cores
    "the operator ends": 60,  # up to 10 s of passes under way, and 3 s of watches
    "everything is ready": 600,  # the demo: trained, evaluated and served
}
