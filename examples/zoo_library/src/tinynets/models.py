"""The architectures. Images are (batch, 3, 32, 32), table rows (batch, 16), and logits (batch, num_classes)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinynets.registry import register


class Block(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        out: Tensor = (x + self.body(x)).relu()
        return out


@register("tiny_resnet")
class TinyResNet(nn.Module):
    """Residual blocks, pooling, and a linear head."""

    def __init__(self, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        features = self.blocks(self.stem(x)).mean((2, 3))
        logits: Tensor = self.fc(features)
        return logits


@register("tiny_squeeze")
class TinySqueeze(nn.Module):
    """A network whose head is a 1x1 convolution, followed by pooling."""

    def __init__(self, num_classes: int = 10, width: int = 24) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, stride=4, padding=1), nn.ReLU(), nn.Dropout(0.1))
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        scores: Tensor = self.classifier(self.features(x))
        return scores.mean((2, 3))


@register("tiny_deit")
class TinyDeit(nn.Module):
    """A transformer with a class token and a distillation token, each with its own head."""

    def __init__(self, num_classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.tokens = nn.Parameter(torch.zeros(1, 2, width))
        self.positions = nn.Parameter(torch.randn(1, 18, width) * 0.02)
        self.block = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        self.head_dist = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map images to logits: one per head in train mode, their mean in eval mode."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.tokens.expand(len(x), -1, -1), patches], 1) + self.positions
        features = self.norm(self.block(tokens))
        logits: Tensor = self.head(features[:, 0])
        distilled: Tensor = self.head_dist(features[:, 1])
        return (logits, distilled) if self.training else (logits + distilled) / 2


@register("tiny_mlp")
class TinyMlp(nn.Module):
    """A network for table rows. Its hidden layer grows with the class count."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.hidden = nn.Linear(16, 4 * num_classes)
        self.norm = nn.BatchNorm1d(4 * num_classes)
        self.out = nn.Linear(4 * num_classes, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map rows to logits."""
        logits: Tensor = self.out(self.norm(self.hidden(x)).relu())
        return logits
