"""What a pod's own log tells of its failure: built-in signs, and patterns of the user's.

RE2 takes time that grows with the text alone, whatever the pattern; so nobody's pattern and
nobody's log can hold up a pod. The operator itself looks for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import re2

from lepton_ai.record import InvalidSpecError
from lepton_launcher.stderr import PEER_LOST

# What CUDA, the driver and NCCL say of a broken GPU.
_GPU_ERROR = (
    r"\bXid\b|uncorrectable (ECC|NVLink) error|has fallen off the bus|GPU is lost"
    r"|hardware stack error|CUDA-capable device\(s\) is/are busy or unavailable"
    r"|Invalid access of peer GPU memory over nvlink or a hardware error"
    r"|(?i)unable to determine the device handle for gpu"
)
# What NCCL says of its own node's network; of a peer's it says ncclRemoteError.
_NETWORK_ERROR = (
    r"ncclSystemError|NCCL WARN NET/(IB|OFI|Socket)|IBV_WC_\w*ERR|IBV_EVENT_(PORT_ERR|DEVICE_FATAL)"
    r"|Got completion .* with error|ibv_\w+ failed"
)


def check(patterns: Mapping[str, str]) -> None:
    """Raise InvalidSpecError for the first of the user's patterns that RE2 does not take."""
    for pattern in patterns.values():
        try:
            _compiled(pattern)
        except re2.error as error:
            raise InvalidSpecError(
                f"failurePolicy.rules: messagePattern {pattern!r} is no regular expression that "
                f"RE2 takes: {_said(error)}."
            ) from error


def found(patterns: Mapping[str, str], message: str, tail: bytes) -> tuple[str, ...]:
    """Return the signs and the names of the patterns that a failed pod's words match.

    A broken connection counts only in the last error line: in the log before it, it may have been
    mended since.
    """
    log = f"{tail.decode('utf-8', 'replace')}\n{message}"
    return (*_signs(message, log), *_named(patterns.items(), log))


def _signs(message: str, log: str) -> Iterator[str]:
    for sign, pattern, text in (
        ("GpuError", _GPU_ERROR, log),
        ("NetworkError", _NETWORK_ERROR, log),
        ("PeerLost", PEER_LOST, message),
    ):
        if _compiled(pattern).search(text):
            yield sign


def _named(patterns: Iterable[tuple[str, str]], log: str) -> Iterator[str]:
    return (name for name, pattern in patterns if _compiled(pattern).search(log))


def _compiled(pattern: str) -> re2._Regexp:
    options = re2.Options()
    options.log_errors = False
    re2.compile(pattern, options)  # on its own first: its errors are then about what was written
    return re2.compile(f"(?m){pattern}", options)


def _said(error: re2.error) -> str:
    words = error.args[0] if error.args else b"it is not valid"
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
