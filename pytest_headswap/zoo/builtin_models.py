"""The models of the `builtin` zoo, as functions of a class count."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 24


def features(channels: int = 3) -> nn.Sequential:
    """A small convolutional backbone: (B, channels, H, W) to (B, 24, H / 4, W / 4)."""
    return nn.Sequential(
        nn.Conv2d(channels, 12, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.Conv2d(12, WIDTH, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(inplace=True),
    )


def pooled(channels: int = 3) -> nn.Sequential:
    """The same backbone, pooled to (B, 24)."""
    return nn.Sequential(features(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def linear(num_classes: int) -> nn.Module:
    """A perceptron over rows."""
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, num_classes))


def simple_cnn(num_classes: int) -> nn.Module:
    """A network that ends in two Linear layers, of which the second is the head."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 13 * 13, 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


def nested(num_classes: int) -> nn.Module:
    """A head that is nested in Sequentials, after another classifier layer."""
    classifier = nn.Sequential(
        nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU()), nn.Sequential(nn.Linear(32, num_classes))
    )
    return nn.Sequential(pooled(), nn.Sequential(nn.Dropout(0.1), classifier), nn.Identity())


class TwoHeads(nn.Module):
    """Two heads with different meanings, of which only one is swapped."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(10, 64), nn.ReLU())
        self.head1 = nn.Linear(64, num_classes)
        self.head2 = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(x)
        return self.head1(x), self.head2(x)


def conv_head(num_classes: int) -> nn.Module:
    """A 1x1 convolution on pooled features, followed by a flatten, as in DLA."""
    return nn.Sequential(features(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(WIDTH, num_classes, 1), nn.Flatten(1))


def conv_relu_pool(num_classes: int) -> nn.Module:
    """A convolution followed by ReLU and pooling, as in SqueezeNet."""
    classifier = nn.Sequential(
        nn.Dropout(0.5), nn.Conv2d(WIDTH, num_classes, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
    )
    return nn.Sequential(features(), classifier, nn.Flatten(1))


def conv1d_head(num_classes: int) -> nn.Module:
    """A one-dimensional convolutional head, as in audio models."""
    return nn.Sequential(
        nn.Conv1d(1, 8, 9, stride=4), nn.ReLU(), nn.Conv1d(8, num_classes, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(1)
    )


def conv3d_head(num_classes: int) -> nn.Module:
    """A three-dimensional convolutional head, as in video models."""
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, num_classes, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(1)
    )


class Residual(nn.Module):
    """A head on residual features, whose width several layers determine together."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = pooled()
        self.block = nn.Sequential(nn.Linear(WIDTH, 48), nn.GELU(), nn.Linear(48, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.norm(x + self.block(x)))  # type: ignore[no-any-return]


class Distilled(nn.Module):
    """Two heads, averaged in eval mode and returned separately in train mode, as in distilled DeiT."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = pooled()
        self.head = nn.Linear(WIDTH, num_classes)
        self.head_dist = nn.Linear(WIDTH, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.backbone(x)
        main, distilled = self.head(x), self.head_dist(x.tanh())
        return (main, distilled) if self.training else (main + distilled) / 2


class HeadList(nn.Module):
    """A list of heads of different widths, stacked and averaged, as in CrossViT."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = pooled()
        self.heads = nn.ModuleList([nn.Linear(width, num_classes) for width in (WIDTH, WIDTH // 2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x)
        logits = [head(x[:, : head.in_features]) for head in self.heads]
        return torch.stack(logits).mean(dim=0)


class SummedAux(nn.Module):
    """A head on the first token and one on the others, summed and registered in reverse order, as in VOLO."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.aux_head = nn.Linear(WIDTH, num_classes)
        self.head = nn.Linear(WIDTH, num_classes)
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(x)
        return self.head(x[:, 0]) + 0.5 * self.aux_head(x[:, 1:]).max(1)[0]  # type: ignore[no-any-return]


class TrainOnlyAux(nn.Module):
    """Auxiliary logits in train mode only, as in Inception and GoogLeNet."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.early = nn.Conv2d(3, 8, 3, stride=2)
        self.aux = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
        self.late = nn.Conv2d(8, WIDTH, 3, stride=2)
        self.fc = nn.Linear(WIDTH, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        early = self.early(x).relu()
        logits = self.fc(self.late(early).relu().mean((2, 3)))
        return (logits, self.aux(early)) if self.training else logits


class Segmentation(nn.Module):
    """A class for each pixel, returned in a dict, with an auxiliary head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.early = nn.Conv2d(3, WIDTH, 3, stride=2, padding=1)
        self.late = features(WIDTH)
        self.classifier = nn.Conv2d(WIDTH, num_classes, 1)
        self.aux_classifier = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        early = self.early(x)
        size = x.shape[-2:]
        out = functional.interpolate(self.classifier(self.late(early)), size=size, mode="bilinear")
        return {"out": out, "aux": functional.interpolate(self.aux_classifier(early), size=size, mode="bilinear")}


def token_classifier(num_classes: int) -> nn.Module:
    """A class for each token: (B, T, 24) to (B, T, num_classes)."""
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, num_classes))


class Transformer(nn.Module):
    """A class token and self-attention; the head reads the token."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return self.head(self.encoder(x)[:, 0])  # type: ignore[no-any-return]


class Lstm(nn.Module):
    """A recurrent model: the head reads the last step of a bidirectional LSTM."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(WIDTH, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]


class GruDictOutput(nn.Module):
    """A recurrent model that returns its hidden state along with the logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(WIDTH, 16, batch_first=True)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        steps, hidden = self.rnn(x)
        return {"hidden": hidden, "logits": self.fc(steps[:, -1])}


def with_tail(tail: nn.Module, num_classes: int) -> nn.Module:
    """A head followed by an activation over the classes."""
    return nn.Sequential(linear(num_classes), tail)


def batch_norm_behind(num_classes: int) -> nn.Module:
    """A head followed by a batch norm with one entry per class."""
    return nn.Sequential(
        nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, num_classes, bias=False), nn.BatchNorm1d(num_classes)
    )


class ClassScale(nn.Module):
    """A head followed by a scale with one entry per class."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = linear(num_classes)
        self.scale = nn.Parameter(torch.ones(num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale  # type: ignore[no-any-return]


class SharedScale(nn.Module):
    """A head followed by one temperature for all classes, which must stay unchanged."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = linear(num_classes)
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) / self.temperature  # type: ignore[no-any-return]


class RawParameter(nn.Module):
    """A head that is a parameter of the model itself, without a layer around it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU())
        self.proj = nn.Parameter(torch.randn(16, num_classes) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x) @ self.proj  # type: ignore[no-any-return]


class Cosine(nn.Module):
    """Cosine similarities to normalized class vectors, with a learned scale."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU())
        self.prototypes = nn.Parameter(torch.randn(num_classes, 16))
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.normalize(self.backbone(x), dim=-1)
        return self.scale * functional.linear(x, functional.normalize(self.prototypes, dim=-1))


class NoGradBackbone(nn.Module):
    """A backbone that runs under `no_grad`, so that autograd sees nothing before the head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = pooled()
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone(x)
        return self.head(x)  # type: ignore[no-any-return]


def frozen(num_classes: int) -> nn.Module:
    """A model in which all parameters are frozen, including those of the head."""
    return nn.Sequential(pooled(), nn.Linear(WIDTH, num_classes)).requires_grad_(requires_grad=False)


def bfloat16(num_classes: int) -> nn.Module:
    """A model with all parameters in bfloat16."""
    return linear(num_classes).to(torch.bfloat16)


class MisleadingNames(nn.Module):
    """A head called `stem`. The backbone layers `head` and `fc` are registered after it, and `fc` also runs last."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Linear(16, num_classes)
        self.head = nn.Linear(WIDTH, 16)
        self.fc = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        logits = self.stem(x + self.fc(x))
        self.fc(x)  # executed last, but nothing depends on it
        return logits  # type: ignore[no-any-return]


class Alias(nn.Module):
    """One head under two names."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = nn.Linear(WIDTH, 16)
        self.classifier = nn.Linear(16, num_classes)
        self.fc = self.classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.backbone(x).relu())  # type: ignore[no-any-return]


class Headless(nn.Module):
    """A model that ends in an Identity if it has 0 classes, as in DINOv2. Another Identity follows."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = pooled()
        self.norm = nn.LayerNorm(WIDTH)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(WIDTH, num_classes) if num_classes else nn.Identity()
        self.flatten = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.flatten(self.fc(self.drop(self.norm(self.backbone(x)))))  # type: ignore[no-any-return]


def headless(num_classes: int) -> nn.Module:
    """Return a `Headless` model."""
    return Headless(num_classes)


def headless_conv(num_classes: int) -> nn.Module:
    """A model in which an Identity replaces the 1x1 convolution if it has 0 classes."""
    head = nn.Conv2d(WIDTH, num_classes, 1) if num_classes else nn.Identity()
    model = nn.Sequential(features(), nn.AdaptiveAvgPool2d(1), head, nn.Flatten(1))
    model.num_classes = num_classes  # type: ignore[assignment]
    return model


def encoder() -> nn.Module:
    """An encoder without a place for a head. The engine refuses it."""
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
