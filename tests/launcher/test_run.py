"""The launcher as a process: what it waits for, and how it ends."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import ATTEMPT, wait_until

if TYPE_CHECKING:
    from .conftest import Pod

RAISES = "raise ValueError('the learning rate is negative')"
STAYS = """
import os, pathlib, time
pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"], "pid").write_text(str(os.getpid()))
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def handles(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


def untimed(pod: Pod) -> dict[str, Any]:
    """The message without where its time went."""
    return {name: value for name, value in pod.message().items() if name != "ledger"}


def test_a_script_that_ends_well_is_a_success(pod: Pod) -> None:
    pod.run(pod.script("print('trained')")).begin().agree()
    assert untimed(pod) == {"outcome": "Succeeded", "reason": "Succeeded"}
    assert pod.wait() == 0
    assert pod.stdout == b"trained\n"


def test_a_module_with_arguments_is_an_entrypoint(pod: Pod) -> None:
    pod.run("-m", "json.tool", "--help").begin().agree()
    assert pod.wait() == 0
    assert b"usage" in pod.stdout


def test_the_rank_gets_the_variables_of_torchrun(pod: Pod) -> None:
    script = pod.script("import json, os; print(json.dumps(dict(os.environ)))")
    pod.run(script).begin(address="10.0.0.9", port=4242).agree().wait()
    environment = json.loads(pod.stdout)
    expected = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    expected |= {"MASTER_ADDR": "10.0.0.9", "MASTER_PORT": "4242", "TORCHELASTIC_MAX_RESTARTS": "0"}
    assert expected.items() <= environment.items()
    assert environment["LEPTON_OUTPUT_DIR"] == str(pod.output)


def test_nothing_about_the_attempt_is_in_the_environment_of_the_launcher(pod: Pod) -> None:
    pod.run(pod.script(STAYS)).begin(port=4242)
    pod.wait_for_file("pid")
    variables = Path(f"/proc/{pod.process.pid}/environ").read_bytes().split(b"\0")
    assert not [each for each in variables if each.startswith(b"MASTER")]
    assert not [each for each in variables if each.endswith(b"=4242")]


def test_the_last_error_line_of_an_exception_is_the_message(pod: Pod) -> None:
    pod.run(pod.script(RAISES)).begin().agree()
    assert untimed(pod) == {
        "outcome": "Failed",
        "reason": "UserError",
        "message": "ValueError: the learning rate is negative",
        "rank": 0,
        "exitCode": 1,
    }
    assert pod.wait() == 1
    assert b"Traceback" in pod.stderr


@pytest.mark.parametrize(
    ("entrypoint", "message", "code"),
    [
        (["/nowhere/train.py"], "can't open file '/nowhere/train.py': [Errno 2]", 2),
        (["/etc"], "can't find '__main__' module in '/etc'", 1),
        (["-m", "no_such_module"], "No module named no_such_module", 1),
        (["-m"], "name the module", 1),
        (["--nnodes=2", "train.py"], "The entrypoint starts with --nnodes=2", 1),
        ([], "There is no entrypoint", 1),
    ],
)
def test_an_entrypoint_that_cannot_run_is_named(
    pod: Pod, entrypoint: list[str], message: str, code: int
) -> None:
    pod.run(*entrypoint).begin().agree()
    assert message in pod.message()["message"]
    assert pod.wait() == code


def test_a_rank_killed_by_a_signal_is_a_failure_with_that_signal(pod: Pod) -> None:
    pod.run(pod.script("import os; os.kill(os.getpid(), 9)")).begin().agree()
    message = pod.message()
    assert (message["reason"], message["signal"]) == ("UserError", 9)
    assert message["message"] == "Killed by SIGKILL."
    assert pod.wait() == 137


FAILS_WITH_MUCH_TO_TEAR_DOWN = """
import atexit, os, pathlib, threading, time
output = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"])
class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(600)
slow, log = Slow(), (output / "log").open("w")
log.write("held")
threading.Thread(target=lambda: (time.sleep(0.5), log.write(" and waited for"))).start()
atexit.register(lambda: log.write(" and written at the end"))
print("printed", end="")
raise ValueError("boom")
"""


def test_a_rank_that_failed_is_gone_without_its_teardown(pod: Pod) -> None:
    pod.run(pod.script(FAILS_WITH_MUCH_TO_TEAR_DOWN)).begin()
    record = pod.record()
    assert (record["message"], record["exitCode"]) == ("ValueError: boom", 1)
    assert (pod.output / "log").read_text() == "held and waited for and written at the end"
    pod.agree()
    pod.wait()
    assert pod.stdout == b"printed"


@pytest.mark.parametrize("raised", ["ValueError('boom')", "KeyboardInterrupt()"])
def test_an_error_that_a_script_prints_itself_and_survives_is_no_failure(
    pod: Pod, raised: str
) -> None:
    survives = f"""
import sys
try:
    raise {raised}
except BaseException:
    sys.excepthook(*sys.exc_info())
"""
    pod.run(pod.script(survives)).begin().agree()
    assert pod.message()["outcome"] == "Succeeded"


def test_an_interrupt_ends_a_rank_by_its_signal(pod: Pod) -> None:
    pod.run(pod.script("raise KeyboardInterrupt")).begin()
    assert pod.record()["signal"] == signal.SIGINT
    pod.agree()


def test_an_exit_without_a_word_says_so(pod: Pod) -> None:
    pod.run(pod.script("raise SystemExit(7)")).begin().agree()
    assert pod.message()["message"] == "Exit code 7, without an error on stderr."
    assert pod.wait() == 7


def test_several_ranks_without_torch_say_what_is_missing(pod: Pod) -> None:
    pod.run(pod.script(""), options=("--nproc-per-node", "2")).begin().agree()
    message = pod.message()
    assert message["reason"] == "UserError"
    assert "has no torch, which 2 ranks need" in message["message"]
    assert pod.wait() == 1


# What it waits for


def test_a_thousand_variables_reach_the_rank(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1000):
        monkeypatch.setenv(f"V{number}", "x" * 100)
    script = pod.script("import os; print(sum(name[0] == 'V' for name in os.environ))")
    pod.run(script).begin().agree()
    assert pod.message()["outcome"] == "Succeeded"
    assert int(pod.stdout) >= 1000


def test_a_disk_that_is_full_from_the_start_is_a_sentence(pod: Pod) -> None:
    script = pod.script("print('never')")
    # Smaller than what ranks are watched by, larger than a termination message.
    pod.run(script, through=("prlimit", "--fsize=8192")).begin().agree()
    message = pod.message()
    assert (message["outcome"], message["reason"]) == ("Failed", "UserError")
    assert "The ranks cannot be started" in message["message"]
    assert "File too large" in message["message"]


def test_a_disk_that_fills_up_while_ranks_run_does_not_end_them(pod: Pod) -> None:
    script = pod.script("""
import os, pathlib, resource, time
from lepton_launcher import board
ours = board.of_this_process()
resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for step in range(1, 60):
    ours.finish_step(step)
    time.sleep(0.05)
resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
""")
    pod.run(script).begin().agree()
    assert (pod.message()["outcome"], pod.message()["step"]) == ("Succeeded", 59)


def test_no_rank_starts_before_the_sidecar_and_the_attempt(pod: Pod) -> None:
    pod.run(pod.script("print('started')"))
    with pytest.raises(Exception, match="timed out"):
        pod.process.wait(0.3)
    pod.put("start.json", {"found": None})
    wait_until(lambda: b"waiting for the operator" in pod.stderr, "what it waits for")
    assert pod.stdout == b""
    pod.begin().agree()
    assert pod.wait() == 0
    assert pod.stdout == b"started\n"


@pytest.mark.parametrize(
    ("told", "doubt"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[1]", "it is not an object"),
        (json.dumps({**ATTEMPT, "attempt": 0}), "it is attempt 0, not 1 or later"),
        (json.dumps({**ATTEMPT, "nodeRank": 1}), "it is node 1 of 1, not 0 of 1"),
        (json.dumps({**ATTEMPT, "port": 70_000}), "70000 is not a port"),
        (json.dumps({**ATTEMPT, "attempt": True}), "its attempt is not a whole number"),
        (json.dumps({**ATTEMPT, "address": " "}), "its address is missing"),
    ],
)
def test_an_attempt_that_is_not_ours_is_waited_out(pod: Pod, told: str, doubt: str) -> None:
    pod.put("start.json", {"found": None})
    pod.attempt_file.write_text(told)
    pod.run(pod.script("print('started')"))
    wait_until(lambda: doubt.encode() in pod.stderr, doubt)
    assert pod.stdout == b""
    pod.begin().agree()
    assert pod.wait() == 0
    assert pod.stderr.count(b"is not followed") == 1


@pytest.mark.parametrize("garbage", [b"{", b"\xff\xfe", b"null", b""])
def test_a_start_that_cannot_be_read_is_waited_out(pod: Pod, garbage: bytes) -> None:
    pod.put("start.json", garbage)
    pod.run(pod.script(""))
    with pytest.raises(Exception, match="timed out"):
        pod.process.wait(0.2)
    pod.begin().agree()
    assert pod.wait() == 0


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ({"outcome": "Succeeded", "reason": "Succeeded", "model": {"version": 4}}, 0),
        ({"outcome": "Failed", "reason": "UserError", "message": "old", "exitCode": 3}, 3),
        ({"outcome": "Failed", "reason": "UserError", "signal": 11}, 139),
    ],
)
def test_a_record_of_this_run_ends_the_pod_at_once(
    pod: Pod, found: dict[str, Any], code: int
) -> None:
    pod.put("start.json", {"found": found})
    pod.run(pod.script("print('started')"))
    assert pod.message() == found
    assert pod.wait() == code
    assert pod.stdout == b""
    assert not (pod.exchange / "record.json").exists()


@pytest.mark.parametrize("found", [{"outcome": "Perhaps", "reason": "x"}, [], "x", {"reason": 1}])
def test_a_found_record_that_is_none_does_not_stop_the_training(pod: Pod, found: Any) -> None:
    pod.attempt_file.write_text(json.dumps(ATTEMPT))
    pod.put("start.json", {"found": found})
    pod.run(pod.script("print('trained')")).agree()
    assert pod.wait() == 0
    assert pod.stdout == b"trained\n"


# What it ends with


def test_the_sidecar_completes_the_record(pod: Pod) -> None:
    pod.run(pod.script("")).begin()
    answer = {**pod.record(), "model": {"version": 2, "digest": "sha256:" + "0" * 64}}
    pod.put("answer.json", answer)
    assert pod.message() == answer


def test_the_sidecar_may_turn_a_success_into_a_failure(pod: Pod) -> None:
    pod.run(pod.script("")).begin().record()
    pod.put("answer.json", {"outcome": "Failed", "reason": "NoModel", "message": "No model.onnx."})
    assert pod.message()["reason"] == "NoModel"
    assert pod.wait() == 1


@pytest.mark.parametrize("garbage", [b"{", b"\xff", b"[]", b'{"outcome": "Succeeded"}'])
def test_an_answer_that_cannot_be_read_is_waited_out(pod: Pod, garbage: bytes) -> None:
    pod.run(pod.script("")).begin().record()
    pod.put("answer.json", garbage)
    with pytest.raises(Exception, match="timed out"):
        pod.process.wait(0.2)
    pod.agree()
    assert pod.wait() == 0


def test_an_answer_from_before_the_record_is_nobodys(pod: Pod) -> None:
    pod.put("answer.json", {"outcome": "Failed", "reason": "NoModel"})
    pod.run(pod.script("")).begin().agree()
    assert pod.message()["outcome"] == "Succeeded"


def test_metrics_of_the_script_are_in_the_record(pod: Pod) -> None:
    script = pod.script("""
import json, os, pathlib
metrics = {"accuracy": 0.97, "loss": 1}
pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"], "metrics.json").write_text(json.dumps(metrics))
""")
    pod.run(script).begin().agree()
    assert pod.message()["metrics"] == {"accuracy": 0.97, "loss": 1}


def test_a_termination_message_that_cannot_be_written_does_not_change_the_end(pod: Pod) -> None:
    pod.message_file.mkdir()
    pod.run(pod.script("")).begin().agree()
    assert pod.wait() == 0
    assert b"the termination message cannot be written" in pod.stderr


# Signals


def test_sigterm_reaches_the_rank_and_the_record_says_terminated(pod: Pod) -> None:
    pod.run(pod.script(STAYS)).begin()
    rank = int(pod.wait_for_file("pid"))
    pod.ask_to_leave()
    pod.agree()
    message = pod.message()
    assert (message["outcome"], message["reason"]) == ("Failed", "Terminated")
    assert "killed after" not in message["message"]
    assert pod.wait() == 143
    assert not is_alive(rank)


def test_a_rank_that_answers_sigterm_with_0_has_not_finished(pod: Pod) -> None:
    saves = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    pod.run(pod.script(saves + STAYS)).begin()
    pod.wait_for_file("pid")
    pod.ask_to_leave()
    pod.agree()
    assert pod.message()["reason"] == "Terminated"


def test_a_rank_that_ignores_sigterm_is_killed_within_the_grace_period(pod: Pod) -> None:
    ignores = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    pod.run(pod.script(ignores + STAYS), options=("--grace-seconds", "12")).begin()
    rank = int(pod.wait_for_file("pid"))
    asked = time.monotonic()
    pod.ask_to_leave()
    pod.agree()
    assert "killed after" in pod.message()["message"]
    assert pod.wait() == 143
    assert time.monotonic() - asked < 12
    assert not is_alive(rank)


@pytest.mark.parametrize("sidecar", [False, True], ids=["no sidecar yet", "no attempt yet"])
def test_sigterm_while_it_waits_ends_it_at_once(pod: Pod, *, sidecar: bool) -> None:
    if sidecar:
        pod.put("start.json", {"found": None})
    pod.run(pod.script(""), options=("--grace-seconds", "600"))
    wait_until(lambda: handles(pod.process.pid, signal.SIGTERM), "its signal handler")
    pod.ask_to_leave()
    if sidecar:
        pod.agree()
    assert pod.message()["reason"] == "Terminated"
    assert pod.wait() == 143


def test_a_result_that_nobody_stores_in_time_is_no_success(pod: Pod) -> None:
    script = pod.script(
        "import os; open(os.environ['LEPTON_OUTPUT_DIR'] + '/model.onnx', 'w').write('x')"
    )
    pod.run(script, options=("--grace-seconds", "1")).begin()
    assert pod.record()["outcome"] == "Succeeded"
    pod.ask_to_leave()
    message = pod.message()
    assert message["reason"] == "Terminated"
    assert "before the result had been stored" in message["message"]


def test_a_failure_stays_a_failure_when_asked_to_leave_afterwards(pod: Pod) -> None:
    pod.run(pod.script(RAISES), options=("--grace-seconds", "1")).begin().record()
    pod.ask_to_leave()
    assert pod.message()["reason"] == "UserError"
    assert pod.wait() == 1


# Scripts that misbehave


def test_a_line_of_10_mb_is_passed_on_and_cut_in_the_message(pod: Pod) -> None:
    script = pod.script("raise ValueError('x' * 10_000_000)")
    pod.run(script).begin().agree()
    assert pod.message()["message"].startswith("ValueError: xxx")
    assert len(pod.stderr) > 10_000_000


def test_the_end_of_the_log_is_left_for_the_sidecar_before_the_record(pod: Pod) -> None:
    script = pod.script(
        "import sys\nfor line in range(100_000): print('line', line, file=sys.stderr)\n"
        "sys.exit('loss is nan')"
    )
    pod.run(script).begin().record()
    tail = (pod.exchange / "log-tail").read_bytes()
    assert tail.endswith(b"line 99998\nline 99999\nloss is nan")
    assert len(tail) < 64 * 1024
    pod.agree().wait()


def test_invalid_utf_8_and_control_characters_become_plain_text(pod: Pod) -> None:
    pod.run(
        pod.script("import os; os.write(2, b'\\x1b[31mbad\\xff\\x00\\tend\\x07\\n'); os._exit(3)")
    ).begin().agree()
    assert pod.message()["message"] == "bad\ufffd end"
    assert pod.wait() == 3


def test_a_script_that_closes_its_streams_still_ends_as_it_ends(pod: Pod) -> None:
    pod.run(pod.script("import os; os.close(1); os.close(2); os._exit(5)")).begin().agree()
    assert pod.message()["exitCode"] == 5


def test_grandchildren_in_other_sessions_do_not_outlive_the_ranks(pod: Pod) -> None:
    forks = """
import os, pathlib, subprocess, sys, time
held = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                        start_new_session=True)
if os.fork() == 0:
    os.setsid()
    pids = pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"], "unfinished")
    pids.write_text(f"{os.getpid()} {held.pid}")
    pids.rename(pids.with_name("pids"))
    time.sleep(600)
while not pathlib.Path(os.environ["LEPTON_OUTPUT_DIR"], "pids").exists():
    time.sleep(0.01)
os._exit(0)
"""
    pod.run(pod.script(forks)).begin().record()
    pids = [int(pid) for pid in (pod.output / "pids").read_text().split()]
    assert len(pids) == 2
    assert [pid for pid in pids if is_alive(pid)] == []
    pod.agree()
    assert pod.wait() == 0


def test_a_rank_that_writes_without_end_fills_no_disk(pod: Pod) -> None:
    script = f"""
import pathlib, sys
for _ in range(300_000): print('x' * 99, file=sys.stderr)
files = pathlib.Path({str(pod.folder / "tmp")!r}).rglob('*')
print(sum(file.stat().st_size for file in files if file.is_file()))
"""
    pod.run(pod.script(script)).begin().agree().wait()
    assert len(pod.stderr) >= 30_000_000
    assert int(pod.stdout) < 1_000_000, "bytes on disk while it ran"


def test_a_script_that_removes_the_output_folder_still_ends_as_it_ends(pod: Pod) -> None:
    pod.run(pod.script("import os; os.rmdir(os.environ['LEPTON_OUTPUT_DIR'])")).begin().agree()
    assert pod.message()["outcome"] == "Succeeded"


def test_no_temporary_file_is_left(pod: Pod) -> None:
    pod.run(pod.script(RAISES)).begin().agree().wait()
    assert list((pod.folder / "tmp").iterdir()) == []


# A laptop


def test_alone_it_needs_neither_sidecar_nor_operator(pod: Pod) -> None:
    pod.run(pod.script("import os; print(os.environ['MASTER_ADDR'])"), options=("--alone",))
    assert pod.message()["outcome"] == "Succeeded"
    assert pod.stdout == b"127.0.0.1\n"


def test_alone_it_is_one_node(pod: Pod) -> None:
    pod.run(pod.script(""), options=("--alone", "--num-nodes", "2"))
    assert pod.wait() == 2
    assert b"--alone trains on one node" in pod.stderr
