from __future__ import annotations

import pytest

from lepton_launcher.stderr import blames_a_peer, last_error_line

TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "train.py", line 3, in <module>',
    "    main()",
    "    ~~~~^^",
]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        pytest.param([], "", id="nothing was written"),
        pytest.param(["a", "", "fatal: no data", "  "], "fatal: no data", id="the last line"),
        pytest.param([*TRACEBACK, "ValueError: bad"], "ValueError: bad", id="an exception"),
        pytest.param(
            [*TRACEBACK, "KeyError: 1", "", "During handling of the above exception, another",
             "", *TRACEBACK, "ValueError: bad"],
            "ValueError: bad",
            id="the last of two exceptions",
        ),
        pytest.param(
            [*TRACEBACK, "RuntimeError: CUDA error: assert", "Compile with TORCH_USE_CUDA_DSA"],
            "RuntimeError: CUDA error: assert",
            id="not the advice below the exception",
        ),
        pytest.param(
            [*TRACEBACK, "RuntimeError: Error(s) in loading state_dict:", "\tMissing key a"],
            "RuntimeError: Error(s) in loading state_dict: Missing key a",
            id="an exception whose first line ends with a colon",
        ),
        pytest.param(
            [f"[rank1]: {line}" for line in [*TRACEBACK, "ValueError: bad"]],
            "ValueError: bad",
            id="torch's prefix of a rank is taken away",
        ),
        pytest.param(
            ["fatal: no data", "[rank0]:[W1122 04:00:00.1 TCPStore.cpp:106] recvValue failed",
             "[W1122 04:00:00.1 socket.cpp:7] closed"],
            "fatal: no data",
            id="not what torch logs while the process ends",
        ),
        pytest.param(
            [*TRACEBACK, "OSError: cannot read the cache", *["epoch 1"] * 50, "fatal: no data"],
            "fatal: no data",
            id="not a traceback long before the end",
        ),
        pytest.param(
            ["fatal: no data", "/opt/a.py:3: UserWarning: old (see b.cpp:1)", "  cpu = convert()"],
            "fatal: no data",
            id="not a warning",
        ),
        pytest.param(
            ['  File "train.py", line 1', "    def", "SyntaxError: invalid syntax"],
            "SyntaxError: invalid syntax",
            id="a syntax error, which has no traceback",
        ),
    ],
)  # fmt: skip
def test_the_error_is_found_in_what_a_rank_wrote(lines: list[str], said: str) -> None:
    assert last_error_line(lines) == said


@pytest.mark.parametrize(
    ("line", "lost"),
    [
        ("RuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]:23746. This is", True),
        (
            "RuntimeError: [pair.cc:537] Read error [10.0.0.1]:14772: Connection reset by peer.",
            True,
        ),
        ("torch.distributed.DistBackendError: NCCL error: remote process exited or there", True),
        ("torch.distributed.DistNetworkError: failed to recv, got 0 bytes", True),
        ("RuntimeError: Timed out waiting 1800000ms for recv operation to complete", True),
        ("ValueError: no such class 11", False),
        ("", False),
    ],
)
def test_a_rank_that_lost_its_peer_is_not_the_cause(line: str, lost: bool) -> None:  # noqa: FBT001
    assert blames_a_peer(line) is lost
