"""Container images: imported once, and copied by hard links into every node.

The template is a containerd root in the cache folder. A node starts with a `cp -al` of it, made
while the template's containerd is stopped. Only the bolt databases are copied for real: they are
the only files that containerd writes in place.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from e2e.cluster.api import wait_for
from e2e.cluster.layout import SOCKETS, ClusterError, cache_folder, lock, write
from e2e.cluster.process import DIE_WITH_PARENT, Daemon
from e2e.cluster.progress import Progress, duration, need_space, say, while_running
from e2e.cluster.tools import tool

_PREFIX = "localhost/lepton/"
_NAMESPACE = "k8s.io"
_START_SECONDS = 30.0


@dataclass(frozen=True)
class Store:
    """The images of one containerd."""

    socket: Path
    root: Path

    @property
    def blobs(self) -> Path:
        return self.root / "io.containerd.content.v1.content/blobs/sha256"

    def listed(self) -> set[str]:
        return set(_ctr(self.socket, "images", "list", "--quiet").split())


def pause_reference() -> str:
    """The image that holds every pod's namespaces."""
    return f"{_PREFIX}pause:{sha256(tool('pause').read_bytes()).hexdigest()[:12]}"


def prepare(references: Sequence[str], progress: Progress = say) -> None:
    """Have the pause image and these in the template."""
    wanted = [pause_reference(), *references]
    with lock(_home() / ".lock", "Another process imports images; waiting for it ..."):
        if set(wanted) <= _listed():
            return
        for leftover in _home().glob(".import-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with _template_runtime() as store:
            present = store.listed()
            missing = [reference for reference in wanted if reference not in present]
            _check_space(missing)
            for number, reference in enumerate(missing, 1):
                progress(f"Importing image {number} of {len(missing)}: {reference} ...")
                load(store, reference, progress)
            for reference in _superseded(present, wanted):
                _ctr(store.socket, "images", "remove", "--sync", reference)
            write(_list_file(), json.dumps(sorted(store.listed())))


def copy_template(root: Path) -> None:
    """Make a node's containerd root, unless it has one."""
    if root.exists():
        return
    with lock(_home() / ".lock"):
        unfinished = root.with_name(f".{root.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        same_disk = _template().stat().st_dev == root.parent.stat().st_dev
        how = "-al" if same_disk else "-a"
        # A copy that outlived a killed `up` would write into a folder that `down` removes.
        copy = [*DIE_WITH_PARENT, "cp", how, str(_template()), str(unfinished)]
        subprocess.run(copy, check=True)
        for database in _template().rglob("*.db"):
            own = unfinished / database.relative_to(_template())
            own.unlink()
            shutil.copy2(database, own)
        unfinished.rename(root)


def load(store: Store, reference: str, progress: Progress = say) -> None:
    """Import an image from buildah's storage (or the pause image) into a running containerd.

    Only layers that it has not got are read and sent: its own stand as hard links in the folder
    that skopeo copies to, and skopeo writes no blob that is there.
    """
    began = time.monotonic()
    if reference == pause_reference():
        _ctr(store.socket, "images", "import", "-", standard_input=_pause_archive())
        return
    with tempfile.TemporaryDirectory(prefix=".import-", dir=store.root.parent) as work:
        blobs = Path(work, "blobs/sha256")
        blobs.mkdir(parents=True)
        known = {_link(blob, blobs) for blob in store.blobs.glob("*")}
        _copy_from_buildah(reference, Path(work), progress)
        new = [blob for blob in blobs.iterdir() if blob.name not in known]
        _name_image(Path(work, "index.json"), reference)
        _send(store.socket, Path(work), new)
        size_bytes = sum(blob.stat().st_size for blob in new)
    seconds = duration(time.monotonic() - began)
    progress(f"  imported in {seconds}, {size_bytes / 1e6:.0f} MB of it new")


def _link(blob: Path, folder: Path) -> str:
    (folder / blob.name).hardlink_to(blob)
    return blob.name


def _copy_from_buildah(reference: str, folder: Path, progress: Progress) -> None:
    sizes = _built_sizes()
    if reference not in sizes:
        raise ClusterError(
            f"Image {reference} is not in buildah's storage; `make images` builds the images."
        )
    argv = [*DIE_WITH_PARENT, "skopeo", "copy", "--quiet"]
    argv += ["--dest-oci-accept-uncompressed-layers"]
    argv += [f"containers-storage:{reference}", f"oci:{folder}:image"]
    log = folder / "skopeo.log"
    with log.open("w") as output, subprocess.Popen(argv, stdout=output, stderr=output) as process:
        for seconds in while_running(process):
            progress(f"  copying its layers ({sizes[reference]} at most), {duration(seconds)}")
    if process.returncode:
        raise ClusterError(f"{reference} was not copied from buildah: {log.read_text().strip()}")


def _name_image(index: Path, reference: str) -> None:
    """containerd takes an image's whole name from this annotation."""
    content = json.loads(index.read_text())
    content["manifests"][0]["annotations"] = {"io.containerd.image.name": reference}
    index.write_text(json.dumps(content))


def _send(socket: Path, folder: Path, blobs: Sequence[Path]) -> None:
    """Stream an OCI archive with these blobs; containerd has the others."""
    argv = _ctr_argv(socket, "images", "import", "-")
    files = [folder / "oci-layout", folder / "index.json", *blobs]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=pipe, stdout=nowhere, stderr=pipe) as importing:
        assert importing.stdin
        assert importing.stderr
        with suppress(BrokenPipeError), tarfile.open(fileobj=importing.stdin, mode="w|") as archive:
            for file in files:
                archive.add(file, file.relative_to(folder))
        with suppress(BrokenPipeError):
            importing.stdin.close()
        problem = importing.stderr.read().decode().strip()
    if importing.returncode:
        raise ClusterError(f"containerd did not import the image: {problem}")


def built() -> set[str]:
    """The references in buildah's storage."""
    return set(_built_sizes())


def answers(socket: Path) -> bool:
    """Whether a containerd serves."""
    done = subprocess.run(_ctr_argv(socket, "version"), capture_output=True, check=False)
    return done.returncode == 0


def _superseded(present: set[str], wanted: Sequence[str]) -> list[str]:
    """Images of ours that one of the wanted replaces."""
    replaced = {_repository(reference) for reference in wanted}
    return [
        reference
        for reference in present
        if reference.startswith(_PREFIX)
        and reference not in wanted
        and _repository(reference) in replaced
    ]


def _repository(reference: str) -> str:
    return reference.rpartition(":")[0]


def _home() -> Path:
    return cache_folder() / "containerd"


def _template() -> Path:
    return _home() / "root"


def _list_file() -> Path:
    return _home() / "images.json"


def _listed() -> set[str]:
    return set(json.loads(_list_file().read_text())) if _list_file().exists() else set()


@contextmanager
def _template_runtime() -> Iterator[Store]:
    """containerd over the template, for as long as images are imported."""
    # Of this cache: who has another one has another template, and imports at the same time.
    run = SOCKETS / f".images-{sha256(bytes(_home())).hexdigest()[:8]}"
    run.mkdir(parents=True, exist_ok=True)
    _template().mkdir(parents=True, exist_ok=True)
    socket = run / "containerd.sock"
    configuration = run / "containerd.toml"
    configuration.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    flags = (
        f"--config={configuration}",
        f"--root={_template()}",
        f"--state={run / 'state'}",
        f"--address={socket}",
    )
    log = _home() / "containerd.log"
    daemon = Daemon("images", ("/usr/bin/containerd", *flags), log, run / "process.json")
    _list_file().unlink(missing_ok=True)
    daemon.ensure()
    try:
        wait_for(
            "containerd for images", lambda: answers(socket), _START_SECONDS, daemon.last_lines
        )
        yield Store(socket, _template())
    finally:
        daemon.stop()
        shutil.rmtree(run)


def _ctr(socket: Path, *arguments: str, standard_input: bytes | None = None) -> str:
    done = subprocess.run(
        _ctr_argv(socket, *arguments), input=standard_input, capture_output=True, check=False
    )
    if done.returncode:
        raise ClusterError(f"`ctr {' '.join(arguments)}` failed: {done.stderr.decode().strip()}")
    return done.stdout.decode()


def _ctr_argv(socket: Path, *arguments: str) -> list[str]:
    where = (f"--address={socket}", f"--namespace={_NAMESPACE}")
    return [*DIE_WITH_PARENT, "ctr", *where, *arguments]


def _check_space(references: Sequence[str]) -> None:
    """Each lies there twice, as layers and unpacked, and its layers once more meanwhile."""
    sizes = _built_sizes()
    needed_bytes = sum(3 * _size_bytes(sizes.get(reference, "0 B")) for reference in references)
    need_space(_home(), needed_bytes, "Importing the images")


def _built_sizes() -> dict[str, str]:
    answer = subprocess.run(
        ["buildah", "images", "--json"], capture_output=True, text=True, check=True
    )
    images = json.loads(answer.stdout) or []
    return {name: str(image["size"]) for image in images for name in image["names"] or ()}


def _size_bytes(text: str) -> int:
    """Of buildah's words, such as `1.27 GB`."""
    number, unit = text.split()
    power = ("B", "KB", "MB", "GB", "TB").index(unit.upper())
    return round(float(number) * 1000.0**power)


def _pause_archive() -> bytes:
    """A `docker save` archive of one layer with one program, as FROM scratch would give."""
    layer = _tar({"pause": tool("pause").read_bytes()})
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [pause_reference()], "Layers": ["layer.tar"]}]
    return _tar(
        {
            "layer.tar": layer,
            "config.json": json.dumps(configuration).encode(),
            "manifest.json": json.dumps(manifest).encode(),
        }
    )


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
