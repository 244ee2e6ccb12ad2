"""A small convolutional network that reads handwritten digits."""

from __future__ import annotations

from torch import Tensor, nn

# Mean and standard deviation of the pixels of MNIST's 60,000 training images, in 0..1.
MNIST_MEAN = 0.1307
MNIST_STANDARD_DEVIATION = 0.3081


class DigitsNet(nn.Module):  # type: ignore[misc]
    """Two convolutions and two dense layers over grey images of 28 x 28 pixels.

    Takes float32 pixels of shape (batch, 1, 28, 28), 0 the background and 1 the pen, as
    ``lepton_ai.datasets`` gives them; gives logits of shape (batch, classes). Standardising the
    pixels is part of the network, so that a client cannot do it differently from the training.
    """

    def __init__(self, classes: int = 10, channels: int = 32, hidden: int = 128) -> None:
        super().__init__()
        self.arguments = {"classes": classes, "channels": channels, "hidden": hidden}
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, kernel_size=3),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(2 * channels * 5 * 5, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        normalised = (image - MNIST_MEAN) / MNIST_STANDARD_DEVIATION
        return self.classifier(self.features(normalised))


class Probabilities(nn.Module):  # type: ignore[misc]
    """A classifier as it is served: probabilities of shape (batch, classes) instead of logits."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(image).softmax(dim=1)
