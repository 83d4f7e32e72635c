"""The camera's models, and the zoo that `pyproject.toml` registers as `fieldcam`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pytest_headswap import ModelSpec

FRAME = (2, 3, 48, 64)  # batch, channels, height, width
SOUND = (2, 1, 512)  # batch, channels, samples


def leaf(num_classes: int = 12) -> nn.Module:
    """Return an image classifier made of depthwise convolutions."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=4, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )


class Herd(nn.Module):
    """An image classifier: scores every class at every position and returns the highest."""

    def __init__(self, num_classes: int = 12) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 24, 5, stride=4, padding=2), nn.GroupNorm(4, 24), nn.SiLU())
        self.score = nn.Conv2d(24, num_classes, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames to logits."""
        scores: Tensor = self.score(self.body(frames))
        return scores.amax((2, 3))


class Song(nn.Module):
    """A sound classifier: a recurrent layer over filtered samples."""

    def __init__(self, num_classes: int = 12) -> None:
        super().__init__()
        self.filters = nn.Conv1d(1, 16, 16, stride=8)
        self.memory = nn.GRU(16, 24, batch_first=True)
        self.call = nn.Linear(24, num_classes)

    def forward(self, sound: Tensor) -> dict[str, Tensor]:
        """Map sound to logits and to the features they are computed from."""
        steps, _ = self.memory(self.filters(sound).relu().transpose(1, 2))
        features = steps[:, -1]
        return {"logits": self.call(features), "features": features}


def zoo() -> list[ModelSpec]:
    """Return all models, with their inputs and a native build for any class count."""
    return [
        ModelSpec("leaf", build=leaf, example_inputs=_frames, build_native=leaf, tags=("picture",)),
        ModelSpec("herd", build=Herd, example_inputs=_frames, build_native=Herd, tags=("picture",)),
        ModelSpec("song", build=Song, example_inputs=_sound, build_native=Song, tags=("sound",)),
    ]


def _frames(_: nn.Module) -> Tensor:
    return torch.randn(FRAME)


def _sound(_: nn.Module) -> Tensor:
    return torch.randn(SOUND)
