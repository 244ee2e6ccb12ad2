"""What a rank's Python gets from us. Torch is not in this environment: a package of the same name
stands for the few names that are hooked, and e2e tests meet the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lepton_launcher import board, flight
from lepton_launcher.sightings import Sighting
from lepton_launcher.site_folder import write_site_folder

from .conftest import wait_until

if TYPE_CHECKING:
    from lepton_launcher.board import Standing

TORCH = {
    "torch/__init__.py": "",
    "torch/optim/__init__.py": "from torch.optim.optimizer import Optimizer",
    "torch/optim/optimizer.py": """
_hooks = []
def register_optimizer_step_post_hook(hook):
    _hooks.append(hook)
class Optimizer:
    def __init__(self):
        self.param_groups = [{"lr": 0.1}, {"lr": 0.5}]
    def step(self):
        for hook in _hooks:
            hook(self, (), {})
""",
    "torch/nn/__init__.py": "from torch.nn.modules.module import Module",
    "torch/nn/modules/__init__.py": "",
    "torch/nn/modules/module.py": """
class Module:
    def train(self, mode=True):
        self.training = mode
        return self
    def eval(self):
        return self.train(False)
""",
    "torch/nn/parallel/__init__.py": "",
    "torch/nn/parallel/distributed.py": """
from torch.nn import Module
class DistributedDataParallel(Module):
    device_type = "cuda"
    def __init__(self):
        self.iteration = 0
    def _set_ddp_runtime_logging_sample_rate(self, rate):
        self.rate = rate
    def _get_ddp_logging_data(self):
        ended = {"backward_comm_time_end": 10**9 + 250_000_000, "backward_compute_time_end": 10**9}
        return {"iteration": self.iteration, **ended}
""",
    "torch/distributed/__init__.py": "from torch.distributed.distributed_c10d import *",
    "torch/autograd/__init__.py": "",
    "torch/autograd/graph.py": "import time\ndef backward():\n    time.sleep(600)",
    "torch/_inductor/__init__.py": "",
    "torch/_inductor/compile_fx.py": "import time\ndef compile_fx():\n    time.sleep(600)",
    "torch/distributed/checkpoint.py": "import time\ndef save():\n    time.sleep(600)",
    "torch/distributed/distributed_c10d.py": """
import time
class Work:
    seconds = 0.05
    def wait(self):
        time.sleep(self.seconds)
        return True
def init_process_group(backend):
    print(backend)
import torch._C._distributed_c10d
def monitored_barrier():
    time.sleep(600)
""",
    "torch/_C/__init__.py": "",
    "torch/_C/_distributed_c10d.py": """
import json
def _dump_fr_trace_json():
    entries = [{"record_id": each} for each in range(5000)]
    return json.dumps({"comm_lib_version": "", "entries": entries}).encode()
def _dump_nccl_trace_json():
    return b'{"comm_lib_version": "2.27"}'
""",
}


class RankProcess:
    """A Python that finds our sitecustomize, and a package torch, on its PYTHONPATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.board = folder / "board-0"
        self.stacks = folder / "stacks-0"
        write_site_folder(folder / "site")
        self.packages = folder / "packages"
        self.packages.mkdir()

    def add(self, files: dict[str, str]) -> None:
        for name, source in files.items():
            path = self.packages / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)

    def start(self, script: str, **environment: str) -> subprocess.Popen[bytes]:
        becomes_a_rank = (
            "import os, sys; from pathlib import Path; from lepton_launcher import board;"
            f"board.create(Path({str(self.board)!r}), os.getpid());"
            "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
        )
        told = {
            **os.environ,
            "PYTHONPATH": f"{self.folder / 'site'}:{self.packages}",
            "LEPTON_BOARD": str(self.board),
            "LEPTON_STACKS": str(self.stacks),
            **environment,
        }
        return subprocess.Popen(
            [sys.executable, "-c", becomes_a_rank, script],
            env=told,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, script: str, **environment: str) -> tuple[str, str]:
        out, err = self.start(script, **environment).communicate(timeout=20)
        return out.decode(), err.decode()

    def standing(self) -> Standing:
        found = board.read(self.board)
        assert found is not None
        return found.standing


@pytest.fixture
def rank(tmp_path: Path) -> RankProcess:
    made = RankProcess(tmp_path)
    made.add(TORCH)
    return made


def test_optimizer_steps_are_counted(rank: RankProcess) -> None:
    out, err = rank.run("""
import torch.optim
optimizer = torch.optim.Optimizer()
for _ in range(7):
    optimizer.step()
""")
    assert (out, err) == ("", "")
    found = rank.standing()
    assert (found.phase, found.step, found.is_reported) == ("training", 7, False)
    assert found.learning_rate == 0.1


def test_of_two_optimizers_the_one_that_has_done_most_counts(rank: RankProcess) -> None:
    rank.run("""
from torch.optim import Optimizer
generator, critic = Optimizer(), Optimizer()
generator.param_groups[0]["lr"], critic.param_groups[0]["lr"] = object(), 0.2
for _ in range(4):
    critic.step(); critic.step(); generator.step()
""")
    assert (rank.standing().step, rank.standing().learning_rate) == (8, 0.2)


def test_waiting_for_collectives_is_added_up(rank: RankProcess) -> None:
    rank.run("import torch.distributed as d\nfor _ in range(3): assert d.Work().wait()")
    found = rank.standing()
    assert found.collectives == 3
    assert 0.15 <= found.collective_seconds < 5


def test_waits_of_other_threads_are_not_the_rank_s(rank: RankProcess) -> None:
    rank.run("""
import threading, torch.distributed as d
thread = threading.Thread(target=d.Work().wait)
thread.start(); thread.join()
""")
    assert rank.standing().collectives == 0


def test_ddp_waits_are_taken_from_its_own_samples(rank: RankProcess) -> None:
    _, err = rank.run("""
from torch.nn.parallel.distributed import DistributedDataParallel
from torch.optim import Optimizer
model, optimizer = DistributedDataParallel(), Optimizer()
assert model.rate == 10
for model.iteration in (1, 1, 1, 11, 11):
    optimizer.step()
""")
    assert err == ""
    found = rank.standing()
    assert (found.collectives, found.collective_seconds) == (11, 2.75)


def test_the_meeting_of_the_ranks_is_a_phase(rank: RankProcess) -> None:
    out, _ = rank.run("""
import torch.distributed as d
from lepton_launcher import board
class Backend:
    def __str__(self): return board.of_this_process().standing.phase
d.init_process_group(Backend())
print(board.of_this_process().standing.phase)
""")
    assert out.split() == ["rendezvous", "starting"]


def test_eval_between_steps_is_an_evaluation(rank: RankProcess) -> None:
    out, _ = rank.run("""
import torch.nn, torch.optim
from lepton_launcher import board
model, optimizer, ours = torch.nn.Module(), torch.optim.Optimizer(), board.of_this_process()
phases = []
for act in (model.eval, model.train, optimizer.step, model.eval, model.train,
            model.eval, optimizer.step):
    act()
    phases.append(ours.standing.phase)
print(*phases)
""")
    expected = "starting starting training evaluating training evaluating training"
    assert out.split() == expected.split()


def test_a_hook_that_fails_says_so_once_and_the_script_goes_on(rank: RankProcess) -> None:
    rank.add({"torch/optim/optimizer.py": "class Optimizer: pass"})
    out, err = rank.run("import torch.optim; print('trained')")
    assert out == "trained\n"
    assert err.count("lepton:") == 1


def test_a_broken_board_says_so_once_and_the_script_goes_on(rank: RankProcess) -> None:
    _, err = rank.run("""
import torch.optim
from lepton_launcher import board
ours = board.of_this_process()
del ours._memory
for _ in range(3): torch.optim.Optimizer().step()
""")
    assert err.count("lepton:") == 1


def test_a_script_that_fails_ends_at_once_and_loses_nothing_written(rank: RankProcess) -> None:
    path = rank.folder / "metrics.csv"
    out, err = rank.run(f"""
class Writer:
    def __init__(self):
        self.itself = self
        self.file = open({str(path)!r}, "w")
        self.file.write("loss,0.5")
    def __del__(self):
        print("collected")
writer = Writer()
raise ValueError("the batch is empty")
""")
    assert err.splitlines()[-1] == "ValueError: the batch is empty"
    assert out == ""
    assert path.read_text() == "loss,0.5"


def test_the_module_keeps_its_loader(rank: RankProcess) -> None:
    out, _ = rank.run("""
import inspect, torch.optim.optimizer as module
print(type(module.__loader__).__name__, "register" in inspect.getsource(module))
""")
    assert out == "SourceFileLoader True\n"


def test_torch_is_not_imported_by_us(rank: RankProcess) -> None:
    out, _ = rank.run("import sys; print([n for n in sys.modules if n.startswith('torch')])")
    assert out == "[]\n"


def test_a_process_below_the_rank_has_no_hooks_and_reports_nothing(rank: RankProcess) -> None:
    out, _ = rank.run("""
import subprocess, sys
worker = '''
import sys, torch.optim
torch.optim.Optimizer().step()
print(any("lepton" in name for name in sys.modules))
'''
print(subprocess.run([sys.executable, "-c", worker], capture_output=True, text=True).stdout)
""")
    assert out.split() == ["False"]
    assert rank.standing().step == 0


@pytest.mark.parametrize("module", ["sitecustomize", "usercustomize"])
def test_a_customize_module_of_the_image_still_runs(rank: RankProcess, module: str) -> None:
    rank.add({f"{module}.py": "import sys\nsys.from_the_image = __name__"})
    out, err = rank.run(f"import sys, {module}; print(sys.from_the_image, {module}.__file__)")
    assert out.split() == [module, str(rank.packages / f"{module}.py")]
    assert err == ""


def test_a_sitecustomize_that_fails_is_treated_as_without_us(rank: RankProcess) -> None:
    rank.add({"sitecustomize.py": "raise RuntimeError('the image is broken')"})
    out, err = rank.run("import torch.optim; torch.optim.Optimizer().step(); print('trained')")
    assert out == "trained\n"
    assert "the image is broken" in err
    assert rank.standing().step == 1


STUCK = {
    "in Python": "while True: pass",
    "asleep": "import time; time.sleep(600)",
    "in C that keeps the interpreter's lock": "import re; re.match('(a?){60}a{60}', 'a' * 60)",
}


@pytest.mark.parametrize("stuck", STUCK.values(), ids=STUCK.keys())
def test_stacks_are_dumped_on_a_signal(rank: RankProcess, stuck: str) -> None:
    from lepton_launcher.hooks import STACKS_SIGNAL  # noqa: PLC0415

    assert STACKS_SIGNAL is not None
    script = f"def train():\n    print('begun', flush=True)\n    {stuck}\ntrain()"
    process = rank.start(script)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(STACKS_SIGNAL)
        wait_until(lambda: "in train" in rank.stacks.read_text(), "stacks")
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


WAITS = """
import torch.distributed, torch.optim
torch.optim.Optimizer().step()
{spoil}
work = torch.distributed.Work(); work.seconds = 600; work.wait()
"""
SPOILT = "torch._C._distributed_c10d._dump_fr_trace_json = lambda: b'{'"
OLD = "del torch._C._distributed_c10d._dump_fr_trace_json"


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        pytest.param("", [*range(1000, 5000)], id="the last collectives"),
        pytest.param(OLD, None, id="a torch without one"),
        pytest.param(SPOILT, None, id="one that cannot be read"),
    ],
)
def test_a_rank_that_waits_leaves_torch_s_flight_record(
    rank: RankProcess, spoil: str, found: list[int] | None
) -> None:
    process = rank.start(WAITS.format(spoil=spoil))
    try:
        wait_until(lambda: rank.board.exists() and rank.standing().is_waiting, "a wait")
        sighting = Sighting(0, rank.standing(), process.pid)
        records = flight.gather(flight.ask([(sighting, rank.stacks)]))
    finally:
        process.kill()
        process.communicate()
    entries = json.loads(records[0])["torch"]["entries"] if records else None
    assert (entries and [each["record_id"] for each in entries]) == found


@pytest.mark.parametrize(
    "standing",
    [
        pytest.param(board.Standing(alive_at=time.monotonic_ns()), id="it uses no collectives"),
        pytest.param(board.Standing(alive_at=1, collectives=9), id="it runs no thread"),
    ],
)
def test_who_cannot_answer_is_not_asked(tmp_path: Path, standing: Standing) -> None:
    assert flight.ask([(Sighting(0, standing), tmp_path / "stacks-0")]) == {}


COMPILES_IN_A_THREAD = """
import threading, torch._inductor.compile_fx as compiler, torch.autograd.graph as graph
threading.Thread(target=compiler.compile_fx, daemon=True).start()
graph.backward()
"""
PULSE = """
import time, torch.distributed, torch.optim
torch.optim.Optimizer().step()
{then}
"""


@pytest.mark.parametrize(
    ("then", "beats", "waits"),
    [
        ("time.sleep(600)", True, False),
        ("__import__('re').match('(a?){60}a{60}', 'a' * 60)", False, False),
        ("import torch.distributed.checkpoint as c; c.save()", True, False),
        ("torch.distributed.monitored_barrier()", True, True),
        ("import torch.autograd.graph as graph; graph.backward()", True, True),
        (COMPILES_IN_A_THREAD, True, False),
        ("work = torch.distributed.Work(); work.seconds = 600; work.wait()", True, True),
    ],
    ids=[
        "in the script",
        "holding the interpreter's lock",
        "saving",
        "in a barrier",
        "in backward",
        "compiling",
        "waiting",
    ],
)
def test_the_pulse_tells_a_stuck_interpreter_from_one_that_waits(
    rank: RankProcess, then: str, *, beats: bool, waits: bool
) -> None:
    process = rank.start(PULSE.format(then=then))
    try:
        wait_until(lambda: rank.board.exists() and rank.standing().step == 1, "a step")
        first = wait_until(lambda: rank.standing().alive_at, "a pulse")

        def beats_on() -> bool:
            return bool(rank.standing().alive_at > first + 1_500_000_000)

        if beats:
            wait_until(beats_on, "two beats of a busy machine's pulse")
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2.6)
            assert not beats_on()
        assert process.poll() is None
        assert rank.standing().is_waiting is waits
    finally:
        process.kill()
        process.communicate()
