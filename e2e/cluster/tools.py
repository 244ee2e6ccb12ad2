"""The programs of the embedded cluster and its clients, built with Go once and kept by version."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.layout import ClusterError, cache_folder, lock
from e2e.cluster.progress import Progress, duration, need_space, say, while_running

SOURCES = Path(__file__).parent / "go"
KUBERNETES_VERSION = "v1.35.4"
_BUILD_BYTES = 6 << 30
"""Sources and object files of Kubernetes while it is built; they are removed afterwards."""


@dataclass(frozen=True)
class Module:
    """A folder with a go.mod of ours, and the commands that are built from it."""

    name: str
    commands: dict[str, str]
    minutes: float
    ldflags: str = "-s -w"
    tags: str = ""
    manifests: str = ""
    """The folder of the required module that holds its manifests, kept beside the programs."""
    everyday: bool = True
    """Whether it is built without being asked for by name."""

    @property
    def source(self) -> Path:
        return SOURCES / self.name

    @property
    def version(self) -> str:
        return self._required()[1] or "of this repository"

    @property
    def required(self) -> str:
        """The path of the module that the commands are from."""
        return self._required()[0]

    def _required(self) -> tuple[str, str]:
        required = re.search(
            r"^require (\S+) (v\S+)", (self.source / "go.mod").read_text(), re.MULTILINE
        )
        return (required[1], required[2]) if required else ("", "")

    def digest(self) -> str:
        """The first 12 hex digits of the sha256 of what decides the build."""
        files = [self.source / "go.mod", self.source / "go.sum", *sorted(self.source.glob("*.go"))]
        content = b"".join(file.read_bytes() for file in files if file.exists())
        return hashlib.sha256(content + self.tags.encode()).hexdigest()[:12]

    @property
    def folder(self) -> Path:
        return cache_folder() / "go" / f"{self.name}-{self.digest()}"

    def built(self) -> bool:
        return self.folder.is_dir()


_KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
MODULES = (
    Module(
        "kubernetes",
        {command: f"k8s.io/kubernetes/cmd/{command}" for command in _KUBERNETES},
        minutes=7,
        ldflags=f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}",
    ),
    Module("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}, minutes=1),
    Module("coredns", {"coredns": "github.com/coredns/coredns"}, minutes=2),
    Module("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, minutes=1),
    Module("versitygw", {"versitygw": "github.com/versity/versitygw/cmd/versitygw"}, minutes=1),
    Module(
        "prometheus",
        {
            command: f"github.com/prometheus/prometheus/cmd/{command}"
            for command in ("prometheus", "promtool")
        },
        minutes=4,
        # Of some thirty ways to find targets, the one of Kubernetes.
        tags="remove_all_sd,enable_kubernetes_sd",
    ),
    Module("helm", {"helm": "helm.sh/helm/v3/cmd/helm"}, minutes=1),
    Module("pause", {"pause": "."}, minutes=0.2),
    Module("kstatus", {"kstatus": "."}, minutes=1),
    Module("k6", {"k6": "go.k6.io/k6"}, minutes=1),
    Module(
        "keda",
        {
            "keda": "github.com/kedacore/keda/v2/cmd/operator",
            "keda-adapter": "github.com/kedacore/keda/v2/cmd/adapter",
        },
        minutes=8,
        manifests="config",
        # One test of `make test-long` needs it, and it is the dearest but Kubernetes itself.
        everyday=False,
    ),
)
EVERYDAY = tuple(module for module in MODULES if module.everyday)
# Who only wants a cluster does not wait for what tests it: that is built when it is asked for.
_OF_TESTS = ("k6", "kstatus", "prometheus")
OF_A_CLUSTER = tuple(each.name for each in EVERYDAY if each.name not in _OF_TESTS)
_OF_COMMAND = {command: module for module in MODULES for command in module.commands}


def tool(command: str, progress: Progress = say) -> Path:
    """The path of a program, such as `kubectl` or `helm`; it is built if it is not there."""
    module = _module_of(command)
    if not module.built():
        build([module.name], progress)
    return module.folder / command


def path(command: str) -> Path:
    """Where a program is or will be: stopping a cluster must not have to build one."""
    return _module_of(command).folder / command


def manifests(command: str) -> Path:
    """The folder of manifests that came with a program."""
    module = _module_of(command)
    return tool(command).parent / module.manifests


def build(names: Iterable[str] = (), progress: Progress = say) -> None:
    """Build the named modules (those of every day by default) that are not built yet."""
    asked = set(names) or {module.name for module in EVERYDAY}
    wanted = [module for module in MODULES if module.name in asked]
    if all(module.built() for module in wanted):
        return
    home = cache_folder() / "go"
    with lock(home / ".lock", "Another process builds the Go tools; waiting for it ..."):
        _remove_leftovers(home)
        missing = [module for module in wanted if not module.built()]
        if missing:
            _check_go()
            need_space(home, _BUILD_BYTES, "Building the cluster's programs")
            with tempfile.TemporaryDirectory(
                prefix=".building-", dir=home, ignore_cleanup_errors=True
            ) as work:
                for module in missing:
                    _build(module, Path(work), progress)


def _module_of(command: str) -> Module:
    if command not in _OF_COMMAND:
        known = ", ".join(sorted(_OF_COMMAND))
        raise ClusterError(f"There is no tool {command!r}; there are {known}.")
    return _OF_COMMAND[command]


def _build(module: Module, work: Path, progress: Progress) -> None:
    title = f"{module.name} {module.version}"
    progress(f"Building {title} (about {duration(module.minutes * 60)}, once) ...")
    began = time.monotonic()
    packages = list(module.commands.values())
    output = work / module.name
    output.mkdir()
    listing = _Step(module, work, progress, f"{title}: fetching sources")
    total = len(listing.run(["go", "list", "-deps", "-tags", module.tags, *packages]))
    building = _Step(module, work, progress, f"{title}: compiling", total)
    flags = ["-v", "-trimpath", "-tags", module.tags, "-ldflags", module.ldflags]
    building.run(["go", "build", *flags, "-o", f"{output}/", *packages])
    for command, package in module.commands.items():
        (output / _default_name(package, module)).rename(output / command)
    if module.manifests:
        locating = _Step(module, work, progress, f"{title}: finding its manifests")
        source = Path(locating.run(["go", "list", "-m", "-f", "{{.Dir}}", module.required])[-1])
        shutil.copytree(source / module.manifests, output / module.manifests)
    output.rename(module.folder)
    progress(f"Built {title} in {duration(time.monotonic() - began)}.")


@dataclass(frozen=True)
class _Step:
    """One run of the go command, told about every 15 seconds."""

    module: Module
    work: Path
    progress: Progress
    title: str
    total: int = 0

    def run(self, argv: list[str]) -> list[str]:
        """The lines of its output, standard error included."""
        log = self.work / f"{self.module.name}.log"
        with (
            log.open("w") as file,
            subprocess.Popen(
                # A build that was interrupted must not go on alone.
                ["setpriv", "--pdeathsig=TERM", "--", *argv],
                cwd=self.module.source,
                env=self._environment(),
                stdout=file,
                stderr=file,
            ) as process,
        ):
            for seconds in while_running(process):
                done = len(log.read_text().splitlines())
                share = f", {done} of {self.total} packages" if self.total else ""
                self.progress(f"  {self.title}{share}, {duration(seconds)}")
        lines = log.read_text().splitlines()
        if process.returncode:
            end = "\n".join(lines[-12:])
            raise ClusterError(
                f"`{' '.join(argv[:2])}` for {self.module.name} failed. It needs the Go module "
                f"proxy (GOPROXY) and Go as go.mod says. Its last lines:\n{end}"
            )
        return lines

    def _environment(self) -> dict[str, str]:
        """Sources and object files go to the work folder, which is removed with all in it."""
        return os.environ | {
            "GOPATH": str(self.work / "gopath"),
            "GOMODCACHE": str(self.work / "gopath/pkg/mod"),
            "GOCACHE": str(self.work / "gocache"),
            "GOTMPDIR": str(self.work),
            "GOFLAGS": "-modcacherw -mod=readonly",
            "CGO_ENABLED": "0",
        }


def _default_name(package: str, module: Module) -> str:
    """What `go build` calls the program of a package: the last element that is no version."""
    if package == ".":
        return module.name
    parts = [part for part in package.split("/") if not re.fullmatch(r"v\d+", part)]
    return parts[-1]


def _check_go() -> None:
    if shutil.which("go") is None:
        raise ClusterError(
            "The embedded cluster is built with Go, and there is no `go` on the PATH. Install Go "
            "1.26 or later (https://go.dev/doc/install), or use a cluster of your own: "
            "`make ... KUBECONFIG=file CONTEXT=name`."
        )


def _remove_leftovers(home: Path) -> None:
    """A build that was killed left its work folder; whoever holds the lock may remove it.

    Its compilers may still be writing the files that they had begun: those go the next time.
    """
    for folder in home.glob(".building-*"):
        shutil.rmtree(folder, ignore_errors=True)
