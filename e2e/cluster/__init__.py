"""The embedded cluster: a current Kubernetes as plain processes on one Linux machine."""

from e2e.cluster.bare import control_plane
from e2e.cluster.cluster import Cluster, Spec, down, find, up
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.layout import ClusterError
from e2e.cluster.tools import tool

__all__ = [
    "Cluster",
    "ClusterError",
    "ControlPlane",
    "Spec",
    "control_plane",
    "down",
    "find",
    "tool",
    "up",
]
