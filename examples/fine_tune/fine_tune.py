"""Fine-tune a model on new classes: swap its head, freeze the backbone, train, save only the head, and reload it."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from shapes import draw
from torch import Tensor, nn
from torch.nn import functional

from pytest_headswap import freeze_backbone, swap_head

OLD = ("square", "circle", "ring", "plus", "bar", "triangle")
NEW = ("diamond", "cross", "frame")
BATCH = 64


class ShapeNet(nn.Module):
    """Three convolutions and a linear head; maps images (batch, 1, 32, 32) to logits (batch, num_classes)."""

    def __init__(self, num_classes: int = len(OLD)) -> None:
        super().__init__()
        self.num_classes = num_classes
        widths = (1, 16, 32, 64)
        self.features = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
                for before, width in itertools.pairwise(widths)
            ),
            nn.Flatten(),
            nn.Dropout(0.1),
        )
        self.classifier = nn.Linear(64 * 4 * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script. Return 1 if the accuracy stays below --at-least."""
    arguments = _parser().parse_args(argv)
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    model = ShapeNet()
    backbone: Path | None = arguments.backbone
    if backbone is None:
        backbone = output / "backbone.pt"
        train(model, model.parameters(), draw(OLD, 2000, generator), epochs=4)
        torch.save(model.state_dict(), backbone)
        print(f"{backbone}: accuracy {accuracy(model, draw(OLD, 500, generator)):.1%} on {', '.join(OLD)}")
    else:
        model.load_state_dict(torch.load(backbone, weights_only=True))

    swap = swap_head(model, len(NEW))
    freeze_backbone(swap)
    trained, unseen = draw(NEW, 1000, generator), draw(NEW, 500, generator)
    print(f"new head: {swap.heads[0].path}, accuracy {accuracy(model, unseen):.1%} on {', '.join(NEW)}")
    train(model, swap.parameters(), trained, arguments.epochs)
    reached = accuracy(model, unseen)
    print(f"after {arguments.epochs} epochs: {reached:.1%} on {len(unseen[1])} unseen images")

    head = output / "head.pt"
    torch.save(swap.state_dict(), head)
    print(f"{head}: {head.stat().st_size / 1000:.1f} kB, backbone {backbone.stat().st_size / 1000:.1f} kB")

    loaded = load(backbone, head)
    images, _ = unseen
    if not torch.equal(loaded(images), model.eval()(images)):
        raise RuntimeError("the loaded model gives different logits")
    print("a new model with the saved head gives the same logits")
    return 0 if reached >= arguments.at_least else 1


def load(backbone: Path, head: Path) -> nn.Module:
    """Return a fresh model in eval mode, with the backbone's weights and a separately saved head."""
    model = ShapeNet()
    model.load_state_dict(torch.load(backbone, weights_only=True))
    swap_head(model, len(NEW)).load_state_dict(torch.load(head, weights_only=True))
    return model.eval()


def train(model: nn.Module, parameters: Iterable[nn.Parameter], data: tuple[Tensor, Tensor], epochs: int) -> None:
    """Train the given parameters on images and labels."""
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    model.train()  # the frozen backbone stays in eval mode
    for _ in range(epochs):
        order = torch.randperm(len(data[1]))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            optimizer.zero_grad()
            functional.cross_entropy(model(data[0][batch]), data[1][batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Return the fraction of images that the model classifies correctly."""
    images, labels = data
    right = model.eval()(images).argmax(1) == labels
    return float(right.float().mean())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fine-tune", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("run"), help="output folder (default: run)")
    parser.add_argument("--backbone", type=Path, help="weights of an earlier run (default: train them)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs for the new head (default: 5)")
    parser.add_argument("--at-least", type=float, default=0.9, help="required accuracy, from 0 to 1 (default: 0.9)")
    parser.add_argument("--seed", type=int, default=0, help="seed for weights and data (default: 0)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
