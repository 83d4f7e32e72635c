"""Layers that take classes in and give classes out follow the class count; residual backbones are still refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_headswap import HeadSwapError, freeze_backbone, swap_head

X = torch.randn(4, 8)


class Net(nn.Module):
    """Features of width 16, a Linear to 10 classes, and what follows it as a function of the model and the features."""

    def __init__(self, follow: Callable[[Any, Tensor], Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.follow = follow
        self.body = nn.Linear(8, 16)
        self.fc = nn.Linear(16, 10)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.follow(self, F.relu(self.body(x)))


def residual(model: Any, f: Tensor) -> Tensor:
    y: Tensor = model.fc(f)
    refined: Tensor = model.unit(y)
    return y + refined


def recurrence(model: Any, f: Tensor) -> Tensor:
    y: Tensor = model.fc(f)
    for _ in range(3):
        y = model.fc(f) + model.back(y)
    return y


def recurrence_from_zeros(model: Any, f: Tensor) -> Tensor:
    y = f.new_zeros(len(f), model.back.in_features)
    for _ in range(3):
        y = torch.tanh(model.fc(f) + model.back(y))
    return y


def chain(model: Any, f: Tensor) -> Tensor:
    emissions: Tensor = model.fc(f)
    alpha = emissions
    for _ in range(2):
        alpha = torch.logsumexp(alpha[:, :, None] + model.transitions[None], 1) + emissions
    return alpha


def steps(model: Any, f: Tensor) -> Tensor:
    faded = model.fc(f)[:, :, None] * torch.linspace(0.5, 1.0, 6)
    return faded + (faded[:, :, None] * model.mixing[None, :, :, None]).sum(1)  # type: ignore[no-any-return]


def table(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def bottleneck(classes: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(classes, hidden), nn.ReLU(), nn.Linear(hidden, classes))


CASES: dict[str, tuple[Callable[[], Net], dict[str, tuple[int, ...]]]] = {
    "a residual layer": (
        lambda: Net(residual, unit=nn.Linear(10, 10)),
        {"unit.weight": (5, 5), "unit.bias": (5,)},
    ),
    "a residual block as wide as the classes": (
        lambda: Net(residual, unit=bottleneck(10, 10)),
        {"unit.0.weight": (5, 5), "unit.2.weight": (5, 5)},
    ),
    "a bottleneck": (
        lambda: Net(residual, unit=bottleneck(10, 32)),
        {"unit.0.weight": (32, 5), "unit.0.bias": (32,), "unit.2.weight": (5, 32), "unit.2.bias": (5,)},
    ),
    "a bottleneck without biases": (
        lambda: Net(
            residual,
            unit=nn.Sequential(nn.Linear(10, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False)),
        ),
        {"unit.0.weight": (32, 5), "unit.2.weight": (5, 32)},
    ),
    "a table that mixes the classes in each of six steps": (
        lambda: Net(steps, mixing=table(10, 10)),
        {"mixing": (5, 5)},
    ),
    "a recurrence": (lambda: Net(recurrence, back=nn.Linear(10, 10)), {"back.weight": (5, 5), "back.bias": (5,)}),
    "a recurrence from zeros": (
        lambda: Net(recurrence_from_zeros, back=nn.Linear(10, 10)),
        {"back.weight": (5, 5), "back.bias": (5,)},
    ),
    "vector scaling": (lambda: Net(lambda m, f: m.fc(f) * m.w + m.b, w=table(10), b=table(10)), {"w": (5,), "b": (5,)}),
    "matrix scaling": (lambda: Net(lambda m, f: m.unit(m.fc(f)), unit=nn.Linear(10, 10)), {"unit.weight": (5, 5)}),
    "label smoothing": (lambda: Net(lambda m, f: m.fc(f).softmax(-1) @ m.w, w=table(10, 10)), {"w": (5, 5)}),
    "transitions of a chain": (lambda: Net(chain, transitions=table(10, 10)), {"transitions": (5, 5)}),
    "attention over the classes": (
        lambda: Net(lambda m, f: (m.fc(f), (m.fc(f) * m.att).sum(-1)), att=table(10)),
        {"att": (5,)},
    ),
    "a product with a vector": (lambda: Net(lambda m, f: (m.fc(f), m.fc(f) @ m.att), att=table(10)), {"att": (5,)}),
}


@pytest.mark.parametrize("name", CASES)
def test_layers_in_class_space_follow_learn_and_are_restored(name: str) -> None:
    build, shapes = CASES[name]
    model = build().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    swap = swap_head(model, 5, X)
    assert [head.path for head in swap.heads] == ["fc"]
    state = model.state_dict()
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert shapes.keys() <= {*swap.heads[0].tensors} | {key for key in shapes if shapes[key] == (32,)}
    out = model(X)
    tensors = [out] if isinstance(out, Tensor) else list(out)
    assert tensors[0].shape[:2] == (4, 5)
    torch.stack([tensor.square().sum() for tensor in tensors]).sum().backward()  # type: ignore[no-untyped-call]
    assert [key for key, value in swap.named_parameters() if value.grad is None or not value.grad.any()] == []
    swap.restore()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_widths_of_layers_in_class_space_are_kept_right() -> None:
    model = Net(residual, unit=bottleneck(10, 32))
    swap_head(model, 5, X)
    widths = [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert widths == [(8, 16), (16, 5), (5, 32), (32, 5)]


def test_a_class_map_keeps_the_values_between_old_classes() -> None:
    model = Net(residual, unit=nn.Linear(10, 10))
    old = model.unit.weight.detach().clone()  # type: ignore[union-attr, operator]
    swap_head(model, 3, X, class_map=[7, None, 2])
    new = model.unit.weight  # type: ignore[union-attr]
    assert (new[0, 0], new[0, 2], new[2, 0]) == (old[7, 7], old[7, 2], old[2, 7])  # type: ignore[index]


def test_a_head_followed_by_layers_in_class_space_cannot_be_removed() -> None:
    model = Net(residual, unit=nn.Linear(10, 10))
    with pytest.raises(HeadSwapError) as error:
        swap_head(model, 0, X)
    assert error.value.reason == "unsupported_layer"
    assert "unit.weight" in error.value.message
    assert model.fc.out_features == 10


def test_the_backbone_freezes_around_layers_in_class_space() -> None:
    model = Net(recurrence, back=nn.Linear(10, 10))
    freeze_backbone(swap_head(model, 5, X))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {"fc.weight", "fc.bias", "back.weight", "back.bias"}


class Decoder(nn.Module):
    """Three steps of a recurrent decoder. Each reads the class that the step before picked."""

    def __init__(self, rows: int = 10, *, tied: bool = False) -> None:
        super().__init__()
        self.cell = nn.GRUCell(16, 16)
        self.embedding = nn.Embedding(rows, 16)
        self.out = nn.Linear(16, 10)
        if tied:
            self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.cell(x)
        steps = []
        for _ in range(3):
            logits = self.out(h)
            steps.append(logits)
            h = self.cell(self.embedding(logits.argmax(-1)), h)
        return torch.stack(steps, 1)


@pytest.mark.parametrize("tied", [False, True])
def test_the_embedding_of_the_picked_class_follows(tied: bool) -> None:
    model = Decoder(tied=tied)
    swap_head(model, 12, torch.randn(4, 16))
    assert model.embedding.weight.shape == model.out.weight.shape == (12, 16)
    assert model.embedding.num_embeddings == 12
    assert (model.embedding.weight is model.out.weight) == tied
    assert model(torch.randn(4, 16)).shape == (4, 3, 12)


def test_an_embedding_with_more_rows_than_classes_is_refused() -> None:
    with pytest.raises(HeadSwapError, match="12 rows for 10 classes") as error:
        swap_head(Decoder(12), 5, torch.randn(4, 16))
    assert error.value.reason == "unsupported_layer"


class Segmenter(nn.Module):
    """A transposed convolution to the classes and a residual unit after it, as in the U-Nets of MONAI."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, width, 3, padding=1)
        self.up = nn.ConvTranspose2d(width, 10, 3, padding=1)
        self.unit = nn.Sequential(nn.Conv2d(10, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(F.relu(self.down(x)))
        refined: Tensor = self.unit(y)
        return y + refined


def test_a_residual_unit_after_the_last_convolution_follows() -> None:
    model, x = Segmenter(16), torch.randn(2, 3, 8, 8)
    swap = swap_head(model, 5, x)
    assert model(x).shape == (2, 5, 8, 8)
    assert [head.path for head in swap.heads] == ["up"]
    assert model.unit[0].in_channels == model.unit[0].out_channels == 5
    assert model.unit[1].running_mean.shape == (5,)


def test_a_stated_class_count_decides_where_shapes_leave_doubt() -> None:
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(HeadSwapError, match=r"set model\.num_classes") as error:
        swap_head(Segmenter(6), 5, x)
    assert error.value.reason == "output_is_backbone"
    stated = Segmenter(6)
    stated.num_classes = 10  # type: ignore[assignment]
    swap_head(stated, 5, x)
    assert stated(x).shape == (2, 5, 8, 8)
    other = Segmenter(16)
    other.num_classes = 1000  # type: ignore[assignment]
    with pytest.raises(HeadSwapError):
        swap_head(other, 5, x)


class Trunk(nn.Module):
    """A residual backbone without a head."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        pairs = itertools.pairwise(widths)
        self.steps = nn.ModuleList(nn.Linear(before, after) for before, after in pairs)
        self.blocks = nn.ModuleList(bottleneck(width, 2 * width) for width in widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        for step, block in zip(self.steps, self.blocks, strict=True):
            x = F.relu(step(x))
            x = x + block(x)
        return x


class Tokens(nn.Module):
    """The tokens of a transformer without a head, whose patches a narrowing projection embeds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 16)
        self.embed = nn.Linear(16, 8)
        self.blocks = nn.Sequential(*[nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.embed(F.relu(self.stem(x))))
        return out


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (Trunk(8, 16, 32), X),
        (Trunk(8, 16, 16, 16), X),
        (Trunk(32, 16), torch.randn(4, 32)),
        (Tokens(), torch.randn(2, 5, 12)),
    ],
    ids=["widening", "of one width", "narrowing the input", "a transformer"],
)
def test_a_residual_backbone_without_a_head_is_refused(model: nn.Module, x: Tensor) -> None:
    before = {key: value.shape for key, value in model.state_dict().items()}
    with pytest.raises(HeadSwapError) as error:
        swap_head(model, 5, x)
    assert error.value.reason == "output_is_backbone"
    assert {key: value.shape for key, value in model.state_dict().items()} == before


def test_a_recurrent_backbone_without_a_head_is_refused() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.carry = nn.Linear(8, 10), nn.Linear(10, 10)

        def forward(self, x: Tensor) -> Tensor:
            h: Tensor = self.read(x)
            for _ in range(3):
                h = torch.tanh(self.read(x) + self.carry(h))
            return h

    with pytest.raises(HeadSwapError) as error:
        swap_head(Recurrent(), 5, X)
    assert error.value.reason == "output_is_backbone"
    stated = Recurrent()
    stated.num_classes = 10  # type: ignore[assignment]
    swap_head(stated, 5, X)
    assert stated(X).shape == (4, 5)
    assert stated.carry.weight.shape == (5, 5)
