"""Ask a served digits model to read handwritten digits, over Open Inference Protocol v2.

`python -m lepton_ai.recipes.read_digit --url digits.lepton-demo.svc:8000 --model digits`
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import tritonclient.http as triton
from numpy.typing import NDArray

from lepton_ai import datasets

_SHADES = " .:-=+*#%@"


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw each digit, and say what the model reads; exit code 1 if it read none rightly."""
    options = _parser().parse_args(arguments)
    images, labels = unseen_digits(options.count, options.seed)
    with triton.InferenceServerClient(options.url) as client:
        answers = read(client, options.model, images)
    for image, label, answer in zip(images, labels, answers, strict=True):
        print(drawing(image[0]))
        print(f"The model reads: {answer.argmax()} ({answer.max():.1%} sure). Its label: {label}.")
    return 0 if (answers.argmax(axis=1) == labels).any() else 1


def unseen_digits(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return images [count, 1, 28, 28] between 0 and 1 that no training saw, and their labels."""
    _, held_out = datasets.load("mnist").split()
    rows = np.random.default_rng(seed).choice(len(held_out), count, replace=False)
    images = (held_out.x[rows, np.newaxis] / 255).astype(np.float32)
    return images, held_out.y[rows]


def read(
    client: triton.InferenceServerClient, model: str, images: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the probabilities, [samples, 10], of images [samples, 1, 28, 28] between 0 and 1."""
    described = client.get_model_metadata(model)
    given = triton.InferInput(described["inputs"][0]["name"], list(images.shape), "FP32")
    given.set_data_from_numpy(images)
    answer: NDArray[np.float32] | None = client.infer(model, [given]).as_numpy(
        described["outputs"][0]["name"]
    )
    if answer is None:
        raise RuntimeError(f"{model} answered without its output {described['outputs'][0]['name']}")
    return answer


def drawing(image: NDArray[np.float32]) -> str:
    """Return a picture of an image [rows, columns] between 0 and 1, a character a pixel."""
    levels = (image * (len(_SHADES) - 1)).round().astype(int)
    lines = ("".join(_SHADES[level] * 2 for level in row) for row in levels)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="host:port, without a scheme")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--count", type=int, default=1, help="how many digits to read")
    parser.add_argument("--seed", type=int, default=7, help="chooses the digits")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
