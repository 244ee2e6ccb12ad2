"""The launcher runs in images that we do not make."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lepton_launcher
from lepton_launcher.archive import write_zipapp

SOURCES = sorted(Path(lepton_launcher.__file__).parent.glob("*.py"))


def test_equal_sources_give_equal_bytes(tmp_path: Path, launcher: Path) -> None:
    again = tmp_path / "again.pyz"
    write_zipapp(again)
    assert again.read_bytes() == launcher.read_bytes()


def test_the_archive_runs_without_site_packages(tmp_path: Path, launcher: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("print('trained')")
    ended = subprocess.run(
        [sys.executable, "-I", "-S", launcher, "run", "--alone", "--", script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
    )
    assert ended.stdout == b"trained\n"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_python_3_9_can_parse_it_and_nothing_needs_installing(source: Path) -> None:
    tree = ast.parse(source.read_text(), feature_version=(3, 9))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names | {"lepton_launcher"}
