"""The embedded cluster: a current Kubernetes as plain processes on one Linux machine."""

from e2e.cluster.cluster import Cluster, Spec, down, find, up
from e2e.cluster.layout import ClusterError
from e2e.cluster.tools import tool

__all__ = ["Cluster", "ClusterError", "Spec", "down", "find", "tool", "up"]
