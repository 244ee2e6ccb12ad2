"""What a failed pod's log tells: RE2 over the last error line and the end of the log."""

from __future__ import annotations

import time

import pytest

from lepton_ai.agent import marks
from lepton_ai.record import InvalidSpecError

TAIL_BYTES = 64 * 1024
PEER_LOST = "RuntimeError: [pair.cc:553] Connection closed by peer [10.66.65.6]:8358"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(
            "RuntimeError: CUDA error: uncorrectable ECC error encountered",
            ["GpuError"],
            id="a GPU's memory",
        ),
        pytest.param(
            "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.", ["GpuError"], id="an Xid"
        ),
        pytest.param(
            "CUDA error: uncorrectable NVLink error detected during the execution",
            ["GpuError"],
            id="a link between GPUs",
        ),
        pytest.param(
            "RuntimeError: CUDA error: an illegal memory access was encountered",
            [],
            id="an illegal access is mostly the script's",
        ),
        pytest.param("torch.OutOfMemoryError: CUDA out of memory.", [], id="the GPU is too small"),
        pytest.param(
            "n1:12:34 [0] NCCL WARN NET/IB : Got async event : port error",
            ["NetworkError"],
            id="an InfiniBand port",
        ),
        pytest.param(
            "ncclSystemError: System call (e.g. socket, malloc) or external library call failed",
            ["NetworkError"],
            id="NCCL's own system",
        ),
        pytest.param("NCCL INFO NET/IB : Using [0]mlx5_0:1/IB", [], id="NCCL as it starts"),
        pytest.param("ValueError: max_idx is 3", [], id="an ordinary error"),
    ],
)
def test_what_a_log_tells_of_the_machine(words: str, expected: list[str]) -> None:
    assert [*marks.found({}, "Killed.", f"before\n{words}\nafter".encode())] == expected
    assert [*marks.found({}, words, b"")] == expected


@pytest.mark.parametrize(
    "words",
    [
        PEER_LOST,
        "torch.distributed.DistBackendError: NCCL error: ncclRemoteError: A call failed possibly",
        "torch.distributed.DistNetworkError: The client socket has timed out",
        "RuntimeError: Timed out waiting 1800000ms for recv operation to complete",
    ],
)
def test_a_broken_connection_counts_in_the_last_error_line_only(words: str) -> None:
    assert [*marks.found({}, words, b"")] == ["PeerLost"]
    assert [*marks.found({}, "ValueError: bad", words.encode())] == []


def test_patterns_of_the_user_s_are_found_in_message_and_log() -> None:
    patterns = {"a1": "loss is (nan|inf)$", "b2": "^é+", "c3": "never"}
    assert [*marks.found(patterns, "ValueError: loss is nan", b"")] == ["a1"]
    assert [*marks.found(patterns, "", "x\nloss is inf\nééé\n".encode())] == ["a1", "b2"]


def test_a_log_that_is_no_utf_8_is_searched_all_the_same() -> None:
    assert [*marks.found({"a": "bad"}, "", b"\xff\xfe bad \x00")] == ["a"]


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("loss is (nan", "missing )"),
        ("x**", "bad repetition operator"),
        ("(a{1000}){1000}", "invalid repetition size"),
        (r"(a)\1", "invalid escape sequence"),
        ("(?=x)", "invalid perl operator"),
    ],
)
def test_a_pattern_that_is_none_gets_a_sentence(pattern: str, sentence: str) -> None:
    with pytest.raises(InvalidSpecError) as refused:
        marks.check({"a": "fine", "b": pattern})
    assert repr(pattern) in str(refused.value)
    assert sentence in str(refused.value)


def test_no_pattern_is_catastrophic() -> None:
    patterns = {str(each): "(a+)+$|(a|a)*b|(.*a){20}c" for each in range(16)}
    marks.check(patterns)
    began = time.process_time()
    marks.found(patterns, "", b"a" * TAIL_BYTES)
    assert time.process_time() - began < 5
