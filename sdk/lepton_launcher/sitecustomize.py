"""What Python imports before a rank's script: our hooks, then the image's own sitecustomize.

It stands in a folder that is first on the rank's PYTHONPATH (`site_folder`). Every Python below the
rank imports it too, such as the workers of a DataLoader; there it only makes room.
"""

import importlib.machinery
import importlib.util
import os
import sys


def _is_rank() -> bool:
    """Whether the board's header names this process; without the cost of importing the board."""
    try:
        with open(os.environ.get("LEPTON_BOARD", ""), "rb") as file:  # noqa: PTH123 - as above
            return int.from_bytes(file.read(16)[8:], "little") == os.getpid()
    except OSError:
        return False


def _install_hooks() -> None:
    try:
        from lepton_launcher import hooks  # noqa: PLC0415 - only in a rank

        hooks.install()
    except Exception as error:  # noqa: BLE001 - a script never fails by what watches it
        print(f"lepton: steps are not counted: {error!r}", file=sys.stderr)


def _run_the_image_s_own() -> None:
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - as above
    others = [entry for entry in sys.path if os.path.abspath(entry) != here]  # noqa: PTH100
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


if _is_rank():
    _install_hooks()
_run_the_image_s_own()
