from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from lepton_ai import datasets
from lepton_ai.export import export_onnx
from lepton_ai.lineage import tell_data
from lepton_ai.models.digits import DigitsNet, Probabilities
from lepton_ai.models.trainable import save_trainable
from lepton_ai.recipes.digits.options import parse
from lepton_ai.recipes.digits.training import LabelledImages, Metrics, process_group, train
from lepton_ai.recipes.output import (
    output_folder,
    write_heldout,
    write_metrics,
    write_signature,
)
from lepton_ai.recipes.ranks import Rank

HIGHEST_PIXEL = 255
PREPROCESSING = {
    "image": (
        "float32 pixels of shape (batch, 1, 28, 28): a grey image, white pen (1) on black (0), the "
        "digit centred"
    )
}


def main() -> None:
    rank = Rank.from_environment(os.environ)
    options = parse(None, rank.world_size)
    digits = datasets.load("mnist").split()
    training, held_out = map(as_tensors, digits)
    if options.batch_size > len(training):
        sys.exit(
            f"error: --batch-size={options.batch_size} is more than the {len(training)} digits "
            "there are to train on: give less."
        )
    with process_group(rank) as device:
        network, metrics, curves = train(
            training.to(device), held_out.to(device), options, rank, device
        )
    if rank.leads:
        folder = output_folder(os.environ)
        curves.write(folder)
        tell_data(folder, digits[:1])
        leave_model(folder, network, held_out, metrics)


def as_tensors(digits: datasets.Dataset) -> LabelledImages:
    """Turn pixels of (samples, 28, 28) in uint8 into what the network takes."""
    pixels = torch.from_numpy(digits.x[:, None]).float()
    return LabelledImages(pixels / HIGHEST_PIXEL, torch.from_numpy(digits.y))


def leave_model(
    folder: Path, network: DigitsNet, held_out: LabelledImages, metrics: Metrics
) -> None:
    """Write the files of a model version; ``model.onnx`` comes last, so where it is, all are."""
    save_trainable(network.cpu(), folder / "trainable")
    write_heldout(folder, held_out.images.numpy(), held_out.labels.numpy())
    write_signature(folder, [str(digit) for digit in range(10)], PREPROCESSING)
    write_metrics(folder, metrics)
    difference = export_onnx(
        Probabilities(network),
        held_out.images[:32],
        folder / "model.onnx",
        input_names=["image"],
        output_names=["probabilities"],
    )
    print(
        f"model in {folder}: held-out accuracy {metrics['accuracy']:.4f} on {metrics['samples']} "
        f"digits; the ONNX file differs from the torch model by {difference:.1e} at most",
        flush=True,
    )


if __name__ == "__main__":
    try:
        main()
    except (datasets.DatasetNotFoundError, datasets.InvalidDatasetError) as error:
        sys.exit(f"error: {error}")
