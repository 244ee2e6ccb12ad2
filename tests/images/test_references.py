"""A reference says what an image is made of: the same inputs, the same name, and the reverse."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from images import catalog
from images.catalog import IMAGES, ROOT, references
from images.errors import ImageError


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The inputs of all images, as a clean clone elsewhere would have them."""
    for path in sorted({file.path for image in IMAGES.values() for file in catalog.read(image)}):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, target)
    return tmp_path


def changed(copy: Path, name: str, path: str) -> set[str]:
    before = references(root=copy)
    with (copy / path).open("ab") as file:
        file.write(b"\n")
    after = references(root=copy)
    assert before[name] != after[name]
    return {name for name in after if before[name] != after[name]}


def test_two_clones_of_the_same_files_agree(copy: Path) -> None:
    assert references(root=copy) == references()


@pytest.mark.parametrize("name", IMAGES)
def test_each_input_changes_the_reference(name: str) -> None:
    """Its content, its name, and whether it can be run."""
    inputs = {image: catalog.read(IMAGES[image]) for image in IMAGES}
    before = catalog.named(inputs)[name]
    for index, file in enumerate(inputs[name]):
        for other in (
            replace(file, content=file.content + b"\n"),
            replace(file, path=f"{file.path}.renamed"),
            replace(file, is_program=not file.is_program),
        ):
            changed = [*inputs[name][:index], other, *inputs[name][index + 1 :]]
            assert catalog.named({**inputs, name: changed})[name] != before, other.path


def test_a_changed_lock_file_changes_what_stands_on_it_and_nothing_else(copy: Path) -> None:
    assert changed(copy, "torch", "locks/torch.txt") == {"torch", "trainer"}
    assert changed(copy, "operator", "locks/operator.txt") == {"operator"}


def test_a_changed_base_changes_every_image(copy: Path) -> None:
    assert changed(copy, "base", "images/base/Dockerfile") == set(IMAGES) - {"debian"}


def test_byte_code_and_editors_files_change_nothing(copy: Path) -> None:
    before = references(root=copy)
    for leftover in ("__pycache__/a.cpython-311.pyc", ".a.py.swp", "a.py~"):
        file = copy / "sdk/lepton_ai" / leftover
        file.parent.mkdir(exist_ok=True)
        file.write_text("left over")
    assert references(root=copy) == before


def test_another_base_image_changes_every_reference_and_takes_our_debians_place() -> None:
    ours, theirs = references(), references(base="python:3.11-slim")
    assert theirs["debian"] == "python:3.11-slim"
    assert not {ours[name] for name in IMAGES} & {theirs[name] for name in IMAGES}


def test_an_unknown_image_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ImageError, match="no image 'torhc'; there are debian, base, torch"):
        catalog.lineage("torhc")


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="images/debian is an input of an image"):
        references(root=tmp_path)
