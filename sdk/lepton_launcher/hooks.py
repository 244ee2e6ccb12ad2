"""What is added to a rank's Python: stack dumps on a signal, counted steps, time in collectives.

Torch is never imported by us: each hook waits until the script itself has imported the module that
it concerns. A hook that fails says so once and stays out of the script's way.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib.machinery
import os
import signal
import sys
import weakref
from typing import TYPE_CHECKING, Any, Callable

from lepton_launcher import board
from lepton_launcher.ending import end_soon_after_an_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

STACKS_VARIABLE = "LEPTON_STACKS"
STACKS_SIGNAL: int | None = signal.SIGRTMIN + 11 if hasattr(signal, "SIGRTMIN") else None
"""Asks a rank for its stacks. A real-time signal that neither torch nor NCCL nor Python uses."""

WANTED = ".wanted"
"""Ends the name of the file by which the launcher asks for torch's flight record."""

LOADED = ".loaded"
"""Ends the name of the file by which a rank says that it loaded from its checkpoint place."""

_DDP_SAMPLE_STEPS = 10
# Who has written so many files without reading one does not begin with a checkpoint.
_MOST_WRITTEN = 1000
_NANOSECONDS = 1_000_000_000

Hook = Callable[[Any], None]


def install() -> None:
    """Prepare this process; does nothing where it is no rank of the launcher's."""
    ours = board.of_this_process()
    if ours is None:
        return
    _dump_stacks_on_signal()
    end_soon_after_an_error()  # its peers wait until it is gone
    _say_whether_it_loads()
    hooks = TorchHooks(ours)
    sys.meta_path.insert(0, _ImportHook(hooks.by_module()))


def _dump_stacks_on_signal() -> None:
    """The handler is C code: it also answers while other C code keeps the interpreter's lock."""
    path = os.environ.get(STACKS_VARIABLE)
    if path and STACKS_SIGNAL is not None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        faulthandler.register(STACKS_SIGNAL, file=file, all_threads=True)


def _say_whether_it_loads() -> None:
    """Whether the script reads a file in its checkpoint place that it has not written itself."""
    if not os.environ.get("LEPTON_CHECKPOINT_URI"):
        return
    from lepton_launcher.saves import place_in  # noqa: PLC0415 - only where there is a place

    place, stacks = place_in(os.environ), os.environ.get(STACKS_VARIABLE)
    if place and stacks:
        sys.addaudithook(_Loads(place, f"{stacks}{LOADED}"))


class _Loads:
    """An audit hook (PEP 578), which sees each file that this Python opens, and each new name."""

    def __init__(self, place: str, says: str) -> None:
        self._place = f"{_absolute(place)}{os.sep}"
        self._says = says
        self._written: set[str] = set()
        self._is_over = False

    def __call__(self, event: str, told: tuple[Any, ...]) -> None:
        if self._is_over or event not in ("open", "os.rename"):
            return
        try:
            if event == "open":
                self._opened(told[0], told[2])
            elif _absolute(told[0]) in self._written:
                self._written.add(_absolute(told[1]))
        except Exception:  # noqa: BLE001 - what a hook raises, the script's open() would raise
            self._is_over = True

    def _opened(self, path: Any, flags: int) -> None:
        if isinstance(path, int) or not _absolute(path).startswith(self._place):
            return
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._written.add(_absolute(path))
            self._is_over = len(self._written) > _MOST_WRITTEN
        elif _absolute(path) not in self._written and os.path.isfile(path):  # noqa: PTH113 - cheap
            self._is_over = True
            os.close(os.open(self._says, os.O_WRONLY | os.O_CREAT, 0o600))


def _absolute(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - of each file that is opened


def _leave_flight_record() -> None:
    """Answer the launcher when it asks which collectives have ended."""
    stacks = os.environ.get(STACKS_VARIABLE)
    if stacks and os.path.exists(f"{stacks}{WANTED}"):  # noqa: PTH110 - each pulse, in every rank
        from lepton_launcher import flight  # noqa: PLC0415 - as seldom as ranks hang

        flight.answer(stacks, sys.modules.get("torch._C._distributed_c10d"))


class _ImportHook:
    """A finder that finds nothing by itself; it calls a hook right after a module has run."""

    def __init__(self, hooks: dict[str, Hook]) -> None:
        self._hooks = hooks

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        hook = self._hooks.pop(name, None)
        if hook is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        loader: Any = spec.loader if spec else None
        if loader is not None:
            run = loader.exec_module

            def run_and_hook(module: ModuleType) -> None:
                run(module)
                guarded(hook)(module)

            # On the loader itself: the module keeps the one that inspect and pickle know.
            loader.exec_module = run_and_hook
        return spec


def guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, whose first failure is said, is its last call, and is never the script's."""
    failed = False

    @functools.wraps(hook)
    def call(*arguments: Any) -> None:
        nonlocal failed
        if failed:
            return
        try:
            hook(*arguments)
        except Exception as error:  # noqa: BLE001 - a script never fails by what watches it
            failed = True
            print(f"lepton: no longer watched ({hook.__name__}): {error!r}", file=sys.stderr)

    return call


class TorchHooks:
    """The hooks into torch, which all write to one board."""

    def __init__(self, ours: board.Board) -> None:
        self._board = ours
        self._steps: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._samples: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def by_module(self) -> dict[str, Hook]:
        """The hook of each module of torch that has one."""
        return {
            "torch.optim.optimizer": self.hook_optimizers,
            "torch.distributed.distributed_c10d": self.hook_collectives,
            "torch.nn.parallel.distributed": self.hook_ddp,
            "torch.nn.modules.module": self.hook_modules,
        }

    def hook_optimizers(self, module: Any) -> None:
        """Count the steps of all optimizers; with several, the one that has done most counts."""
        count_ddp_waits = guarded(self._count_ddp_waits)

        @guarded
        def count_step(optimizer: Any, _arguments: Any, _keywords: Any) -> None:
            self._steps[optimizer] = self._steps.get(optimizer, 0) + 1
            count_ddp_waits()
            self._tell_learning_rate(optimizer)
            self._board.finish_step(max(self._steps.values()), reported=False)

        module.register_optimizer_step_post_hook(count_step)

    def _tell_learning_rate(self, optimizer: Any) -> None:
        """Of its first group. A tensor is left alone: to read one may stop a GPU's stream."""
        groups = getattr(optimizer, "param_groups", None)
        if groups and self._steps[optimizer] == max(self._steps.values()):
            rate = groups[0].get("lr")
            if isinstance(rate, (int, float)):
                self._board.learn_at(float(rate))

    def hook_collectives(self, module: Any) -> None:
        """Count the time that the main thread waits for collectives, and the rendezvous' phase.

        On NCCL a wait only orders streams and returns at once; there, what counts is
        DistributedDataParallel's own clock.
        """
        work = module.Work
        wait, meet = work.wait, module.init_process_group

        @functools.wraps(wait)
        def counted_wait(*arguments: Any, **keywords: Any) -> Any:
            with self._board.collective():
                return wait(*arguments, **keywords)

        @functools.wraps(meet)
        def told_meeting(*arguments: Any, **keywords: Any) -> Any:
            before = self._board.standing.phase
            self._board.enter("rendezvous")
            try:
                return meet(*arguments, **keywords)
            finally:
                self._board.enter(before)

        work.wait = counted_wait
        module.init_process_group = told_meeting
        self._board.at_pulse(guarded(_leave_flight_record))

    def hook_modules(self, module: Any) -> None:
        """Take eval() between steps for an evaluation, until train() or the next step."""
        subject = module.Module
        to_eval, to_train = subject.eval, subject.train

        @functools.wraps(to_eval)
        def told_eval(this: Any) -> Any:
            if self._board.standing.phase == "training":
                self._board.enter("evaluating")
            return to_eval(this)

        @functools.wraps(to_train)
        def told_train(this: Any, mode: bool = True) -> Any:  # noqa: FBT001, FBT002 - torch's own
            if mode and self._board.standing.phase == "evaluating":
                self._board.enter("training")
            return to_train(this, mode)

        subject.eval, subject.train = told_eval, told_train

    def hook_ddp(self, module: Any) -> None:
        """Let DistributedDataParallel, whose collectives are C++ only, take its own time."""
        subject = module.DistributedDataParallel
        initialise, sample = subject.__init__, guarded(self._sample)

        @functools.wraps(initialise)
        def sampled_init(this: Any, *arguments: Any, **keywords: Any) -> None:
            initialise(this, *arguments, **keywords)
            sample(this)

        subject.__init__ = sampled_init

    def _sample(self, model: Any) -> None:
        # A sample of a GPU's step waits for its events; on a CPU it costs nothing.
        steps = 1 if getattr(model, "device_type", "") == "cpu" else _DDP_SAMPLE_STEPS
        model._set_ddp_runtime_logging_sample_rate(steps)  # noqa: SLF001 - no other way
        self._samples[model] = 0

    def _count_ddp_waits(self) -> None:
        """A sampled step stands for those since the last one: gradients ready, and averaged."""
        for model, before in list(self._samples.items()):
            found = model._get_ddp_logging_data()  # noqa: SLF001 - as above
            ended = found.get("backward_comm_time_end", 0)
            steps = found.get("iteration", 0) - before
            if steps > 0 and ended:
                waited = (ended - found["backward_compute_time_end"]) / _NANOSECONDS
                self._samples[model] = before + steps
                self._board.finish_collective(max(0.0, waited) * steps, collectives=steps)
