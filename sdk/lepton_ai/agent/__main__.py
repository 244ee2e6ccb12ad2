"""The command lepton-agent: one subcommand for each container that runs from our own image."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from lepton_ai.record import FailureError, Reason, Record

TERMINATION_LOG = Path("/dev/termination-log")
STORE_REASONS = frozenset({Reason.NO_STORE, Reason.STORE_UNAVAILABLE})
USER_REASONS = frozenset(
    {
        Reason.NO_MODEL,
        Reason.INVALID_MODEL,
        Reason.DIGEST_MISMATCH,
        Reason.NO_DATA,
        Reason.INVALID_DATASET,
        Reason.EVALUATION_FAILED,
        Reason.INVALID_SPEC,
        Reason.CANNOT_BATCH,
    }
)
MODULES = {"import": "importer"}

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; leave its record in the termination message and a sentence on stderr."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    if options.command == "digest":
        return _print_digest(options.path)
    record = _run(options)
    _write_termination_message(record)
    logger.log(logging.INFO if record.is_success else logging.ERROR, "%s", record.message)
    return exit_code(record)


def exit_code(record: Record) -> int:
    """0 for a success, 2 for what the user mends, 3 for the store, 1 for anything else."""
    if record.is_success:
        return 0
    if record.reason in STORE_REASONS:
        return 3
    return 2 if record.reason in USER_REASONS else 1


def _run(options: argparse.Namespace) -> Record:
    if options.command != "sidecar":
        _end_on_sigterm()
    # Imported by name: preparing a pod must not wait for ONNX Runtime's import.
    module = importlib.import_module(
        f"lepton_ai.agent.{MODULES.get(options.command, options.command)}"
    )
    try:
        record: Record = module.run(options)
    except FailureError as failure:
        return Record.failed(failure.reason, str(failure))
    except Exception as error:
        logger.exception("lepton-agent %s failed", options.command)
        return Record.failed(
            None,
            f"lepton-agent {options.command} failed: {type(error).__name__}: {error}. "
            "The pod's log has the details.",
        )
    return record


def _end_on_sigterm() -> None:
    """End at once on SIGTERM: PID 1 ignores it, and the store's calls block handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def end() -> None:
        os._exit(128 + signal.sigwait({signal.SIGTERM}))

    threading.Thread(target=end, daemon=True).start()


def _write_termination_message(record: Record) -> None:
    given = os.environ.get("LEPTON_TERMINATION_LOG")
    path = Path(given) if given else TERMINATION_LOG
    # The kubelet makes the file; on a laptop there is none, and nobody to read it.
    if given or path.exists():
        path.write_bytes(record.line())


def _print_digest(path: Path) -> int:
    from lepton_ai.model_folder import source_digest  # noqa: PLC0415  # as in _run

    if not path.exists():
        logger.error("There is nothing at %s. Name an .onnx file or a folder with one.", path)
        return 1
    print(source_digest(path))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lepton-agent", description="Steps of Lepton's pods.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_prepare(commands.add_parser("prepare", help="leave the launcher for a training pod"))
    _add_sidecar(commands.add_parser("sidecar", help="stand beside a training container"))
    _add_fetch(commands.add_parser("fetch", help="bring a version into a Triton repository"))
    _add_import(commands.add_parser("import", help="make a version of an existing file"))
    _add_index(commands.add_parser("index", help="list the versions in the store"))
    _add_evaluate(commands.add_parser("evaluate", help="measure a version on a data set"))
    digest = commands.add_parser("digest", help="print the digest of a file or folder")
    digest.add_argument("path", type=Path)
    return parser


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--launcher", type=Path, required=True, help="where to write the launcher")
    parser.add_argument("--needs-store", action="store_true", help="fail unless the store answers")
    _add_checkpoint_uri(parser)
    _add_patterns(parser)


def _add_sidecar(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--namespace", type=_name, required=True)
    parser.add_argument("--job", type=_name, required=True)
    parser.add_argument("--uid", type=_uid, required=True, help="of the TrainingJob")
    parser.add_argument("--attempt", type=_natural, required=True)
    parser.add_argument("--rank", type=_natural, required=True, help="of this node, from 0")
    parser.add_argument("--model", type=_name, help="the LeptonModel that gets the result")
    _add_limits(parser)
    parser.add_argument("--image", help="of the training container, for the lineage")
    parser.add_argument("--image-id-file", type=Path, help="what the kubelet says of that image")
    parser.add_argument("--entrypoint", type=_strings, help="a JSON list, for the lineage")
    parser.add_argument("--shared", type=Path, default=Path("/lepton"), help="the shared folder")
    parser.add_argument("--port", type=_natural, default=9464, help="of /progress and /metrics")
    _add_checkpoint_uri(parser)
    _add_patterns(parser)


def _add_checkpoint_uri(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint-uri", help="a prefix in an object store: lepton-store://...")


def _add_patterns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--patterns", type=_texts, default={}, help="RE2, by the names that are reported: JSON"
    )


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_version(parser)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--model", type=_name, required=True, help="the model's name in Triton")
    parser.add_argument("--max-batch-size", type=_natural, required=True)
    parser.add_argument(
        "--must-batch", action="store_true", help="fail if the model cannot be batched"
    )
    parser.add_argument(
        "--preferred-batch-sizes", type=_numbers, default=frozenset(), help="such as 4,8"
    )
    parser.add_argument("--max-queue-delay-microseconds", type=_natural, default=0)
    parser.add_argument("--instances", type=_natural, help="in each pod; absent: Triton's choice")
    parser.add_argument(
        "--response-cache", action="store_true", help="answer equal requests from memory"
    )
    parser.add_argument("--priority-levels", type=_natural, default=0)
    parser.add_argument("--port", type=_natural, default=9464, help="of /progress")


def _add_import(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--digest", type=_digest, required=True)
    _add_limits(parser)
    _add_mount(parser)


def _add_index(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--known", type=_numbers, default=frozenset(), help="such as 3,2,1")
    parser.add_argument("--dataset", help="whose evaluations are wanted")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_version(parser)
    parser.add_argument("--dataset", required=True, help="heldout, a name, or a uri of an .npz")
    _add_mount(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--namespace", type=_name, required=True)
    parser.add_argument("--name", type=_name, required=True, help="of the LeptonModel")


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", type=_natural, required=True)
    parser.add_argument("--digest", type=_digest, required=True, help="of the version's manifest")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-opset", type=_natural, help="newest opset that Triton loads")
    parser.add_argument("--max-ir", type=_natural, help="newest IR version that Triton loads")


def _add_mount(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mount", type=Path, default=Path("/mnt/source"), help="where a pvc:// claim is mounted"
    )


def _name(text: str) -> str:
    return _matching(text, r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", "a Kubernetes name")


def _uid(text: str) -> str:
    return _matching(text, r"[A-Za-z0-9-]+", "an object's UID")


def _digest(text: str) -> str:
    return _matching(text, r"sha256:[0-9a-f]{64}", "sha256:<64 hex digits>")


def _matching(text: str, pattern: str, what: str) -> str:
    if not re.fullmatch(pattern, text):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return text


def _natural(text: str) -> int:
    return int(_matching(text, r"[0-9]{1,10}", "a whole number"))


def _numbers(text: str) -> frozenset[int]:
    return frozenset(_natural(part) for part in text.split(",") if part)


def _strings(text: str) -> list[str]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON list")
    return [str(item) for item in value]


def _texts(text: str) -> dict[str, str]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return {str(name): str(each) for name, each in value.items()}


if __name__ == "__main__":
    raise SystemExit(main())
