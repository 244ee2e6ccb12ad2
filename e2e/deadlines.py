"""Every deadline of the tests on a cluster, in one table. They bound a failure, not a speed.

Pods start in 1 to 3 s when nothing else runs; on two busy cores ten of them take half a minute. To
start a gang takes 10 s, and took 95 s with 46 processes in line for two cores: torch is imported by
torchrun's agent, and then by the script.
"""

from __future__ import annotations

DEADLINES_SECONDS = {
    "a server answers": 60,
    "clients ask": 150,  # k6 and tritonclient take seconds of CPU to start
    "an object is seen": 15,
    "a program in an image acts": 240,  # 12 processes of Triton's import ONNX Runtime, or one torch
    "all requests end": 45,  # each has 10 s, once its client has had its turn
    "a condition shows": 30,
    # 30 s of patience with what may pass by itself, anew where scrapes are missed; and 15 s at most
    # until a Prometheus that did not answer is asked again.
    "scaling is told": 120,
    "a service is scaled": 45,
    "a load is forgotten": 400,  # what it was worth to have pods for it: up to nine starts of one
    "a pod is named": 45,  # ten requests that fail, two looks of the door
    "a pod runs": 90,
    "a pod is gone": 90,
    "a node is not ready": 60,
    "a node is ready": 90,
    "a training runs": 240,
    "a step is done": 15,
    "a training goes on": 240,
    "a job completes": 480,  # a gang may start twice
    "a long job completes": 900,
    "ranks leave": 120,  # 30 s until all have heard that they are to, and 30 s of grace
    "a job fails": 480,  # at its third start
    "an attempt is closed": 120,  # up to 20 s until a node is NotReady, and 30 s of patience
    "a script ends": 600,  # four trainings of one epoch
    "checkpoints are tried": 900,  # twenty trainings of two ranks, two minutes on busy cores
    "ranks are tried": 600,  # six gangs of two ranks
    "recipes are tried": 1200,  # sixteen trainings in gangs, one to two minutes alone
    "ten seeds are trained": 1800,
    "a version is listed": 90,
    "a model is ready": 240,  # three pods, one after another: index, import, evaluation
    "a service is ready": 300,  # its model first
    "a rollout is done": 300,  # of a new version, or of a service that is new itself
    "KEDA answers": 240,  # the kubelet puts the certificates that it made into its pods within 90 s
    "an HPA acts": 120,  # it looks each 15 s; a pod of Triton has to start
    "the operator leads": 120,  # its imports are 2.6 s of CPU, half a minute on busy cores
    "the operator ends": 60,  # up to 10 s of passes under way, and 3 s of watches
    "everything is ready": 600,  # the demo: trained, evaluated and served
}
