"""The Debian packages that nodes and their images are made of."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from e2e.cluster.layout import ClusterError, cache_folder, lock
from e2e.cluster.progress import Progress

_PACKAGE_OF = {
    "/usr/bin/containerd": "containerd",
    "/usr/sbin/runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "debootstrap": "debootstrap",
    "npm": "npm",  # which fetches the digits of the images
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
}


def install(progress: Progress) -> None:
    """Install what is missing, and say so."""
    if not _missing():
        return
    waiting = "Another process installs Debian packages; waiting for it ..."
    with lock(cache_folder() / "packages.lock", waiting):
        if missing := _missing():
            _install(missing, progress)


def _missing() -> list[str]:
    return [package for program, package in _PACKAGE_OF.items() if not shutil.which(program)]


def _install(missing: Sequence[str], progress: Progress) -> None:
    if not shutil.which("apt-get"):
        raise ClusterError(
            f"The cluster and its images need {', '.join(missing)}; this machine has no apt-get. "
            "Install them, or use a cluster of your own: `make ... KUBECONFIG=file CONTEXT=name`."
        )
    progress(f"Installing Debian packages: {', '.join(missing)} ...")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    # A new machine may just be bringing itself up to date.
    patient = ["apt-get", "--option=DPkg::Lock::Timeout=600", "--quiet"]
    install = [*patient, "install", "--yes", "--no-install-recommends", *missing]
    for argv in ([*patient, "update"], install):
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"`{' '.join(argv)}` failed: {done.stderr.strip()[-800:]}")


def need_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError(
            "The embedded cluster makes network namespaces and containers, for which it must be "
            "root. Run the same command with sudo, or use a cluster of your own: "
            "`make ... KUBECONFIG=file CONTEXT=name`."
        )
