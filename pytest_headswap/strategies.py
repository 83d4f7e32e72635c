"""Hypothesis strategies that generate models with heads in known places, to test code that finds heads.

from hypothesis import given
from pytest_headswap.strategies import planted_models

@given(planted_models())
def test_finder(planted):
    assert my_finder(planted.model, planted.example_inputs) == planted.heads
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PlantedModel", "planted_models"]

_BATCH = 2
_MISLEADING = ("fc", "head", "classifier", "stem", "features", "norm", "logits", "embed", "a", "zz")


@dataclass(frozen=True)
class PlantedModel:
    """A model, inputs for it, and the true places of its heads.

    Attributes:
        model: a small module on the CPU with random weights.
        example_inputs: arguments of forward: features (2, 6), sequences (2, 5, 6), or images (2, 3, 8, 8), batch
            first.
        heads: for each head, the path of the module that holds its weight.
        num_classes: class count of all heads.
        description: how the model was built, in words.
    """

    model: nn.Module
    example_inputs: Tensor
    heads: frozenset[str]
    num_classes: int
    description: str

    def __repr__(self) -> str:
        return f"PlantedModel({self.description}, heads={sorted(self.heads)}, num_classes={self.num_classes})"


@dataclass
class Outputs:
    """An output dataclass like those of large libraries."""

    logits: Any
    hidden: Tensor


class Named(NamedTuple):
    """A named tuple of outputs."""

    hidden: Tensor
    logits: Any


# --- backbones: modules that return (B, width) ----------------------------------------------------


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)  # type: ignore[no-any-return]


class _Twice(nn.Module):
    """A layer that is used twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).relu())  # type: ignore[no-any-return]


class _Recurrent(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(6, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0][:, -1]  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
        return (x + self.attend(x, x, x, need_weights=False)[0])[:, 0]  # type: ignore[no-any-return]


def _convolutional(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


_BACKBONES: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {
    "perceptron": (lambda width: nn.Sequential(nn.Linear(6, width), nn.ReLU()), (_BATCH, 6)),
    "residual": (lambda width: nn.Sequential(nn.Linear(6, width), _Residual(width), _Residual(width)), (_BATCH, 6)),
    "twice": (lambda width: nn.Sequential(nn.Linear(6, width), _Twice(width)), (_BATCH, 6)),
    "convolutional": (_convolutional, (_BATCH, 3, 8, 8)),
    "recurrent": (_Recurrent, (_BATCH, 5, 6)),
    "attention": (_Attention, (_BATCH, 5, 6)),
}

# --- heads: modules from (B, width) to (B, classes) ------------------------------------------------


class _Kernel(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel


class _Cosine(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, width))
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * functional.linear(
            functional.normalize(x, dim=-1), functional.normalize(self.weight, dim=-1)
        )


class _Convolution(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[..., None, None]).mean((2, 3))  # type: ignore[no-any-return]


def _weight_norm(width: int, classes: int) -> nn.Module:
    layer: nn.Module = nn.utils.parametrizations.weight_norm(nn.Linear(width, classes))
    return layer


_HEADS: dict[str, tuple[Callable[[int, int], nn.Module], str]] = {
    # constructor, and path of the weight's module within it
    "linear": (nn.Linear, ""),
    "without bias": (lambda width, classes: nn.Linear(width, classes, bias=False), ""),
    "kernel": (_Kernel, ""),
    "cosine": (_Cosine, ""),
    "convolution": (_Convolution, "conv"),
    "weight norm": (_weight_norm, ""),
    "two layers": (lambda width, classes: nn.Sequential(nn.Linear(width, 9), nn.Tanh(), nn.Linear(9, classes)), "2"),
}

_TAILS: dict[str, Callable[[int], nn.Module]] = {
    "nothing": lambda _: nn.Identity(),
    "softmax": lambda _: nn.Softmax(dim=-1),
    "log softmax": lambda _: nn.LogSoftmax(dim=-1),
    "sigmoid": lambda _: nn.Sigmoid(),
    "dropout": lambda _: nn.Sequential(nn.Dropout(0.1), nn.Identity()),
    "norm of classes": nn.BatchNorm1d,
}


class _Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


_NESTINGS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "sequential": (lambda module: nn.Sequential(nn.Dropout(0.1), module), "1"),
    "module": (_Wrapped, "inner"),
    "identity": (lambda module: nn.Sequential(nn.Identity(), module, nn.Identity()), "1"),
}


class _Planted(nn.Module):
    """A backbone, heads and a tail, combined according to the drawn options."""

    def __init__(self, no_grad: bool, combine: str, structure: str) -> None:
        super().__init__()
        self._no_grad, self._combine, self._structure = no_grad, combine, structure
        self._head_names: list[str] = []

    def forward(self, x: Tensor) -> Any:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._no_grad):
            features = self.get_submodule("backbone")(x)
        logits = [self.get_submodule(name)(features) for name in self._head_names]
        return self._structured(self._combined(logits), features)

    def _combined(self, logits: list[Tensor]) -> Any:
        tail = self.get_submodule("tail")
        if self._combine == "sum":
            return tail(sum(logits[1:], logits[0]))
        if self._combine == "mean":
            return tail(torch.stack(logits).mean(0))
        if self._combine == "train only" and not self.training:
            return tail(sum(logits[1:], logits[0]) * 0.5)
        if self._combine == "list" and not self.training:
            return [tail(torch.stack(logits).mean(0))]  # combined in one mode, so all heads predict the same
        return [tail(item) for item in logits]

    def _structured(self, logits: Any, features: Tensor) -> Any:
        structured: dict[str, Any] = {
            "plain": logits,
            "tuple": (features, logits),
            "dict": {"hidden": features, "out": logits},
            "dataclass": Outputs(logits, features),
            "named tuple": Named(features, logits),
            "nested": [{"deep": (logits,)}, features],
        }
        return structured[self._structure]


@st.composite
def planted_models(draw: st.DrawFn) -> PlantedModel:
    """Generate random models with one to three heads in known places.

    They vary in:

    - backbone, width and kind of head;
    - nesting, names and order of registration, and an alias for a head;
    - how the heads are combined, what follows them, and the structure of the outputs;
    - which parameters are frozen.

    The random weights come from a fixed set of seeds.
    """
    torch.manual_seed(draw(st.integers(0, 3)))
    backbone = draw(st.sampled_from(sorted(_BACKBONES)))
    width = 2 * draw(st.integers(2, 6))
    classes = draw(st.integers(2, 12))
    combine = draw(st.sampled_from(["sum", "mean", "list", "train only"]))
    structure = draw(st.sampled_from(["plain", "tuple", "dict", "dataclass", "named tuple", "nested"]))
    tail = draw(st.sampled_from(sorted(_TAILS)))
    kinds = draw(st.lists(st.sampled_from(sorted(_HEADS)), min_size=1, max_size=3))
    frozen = draw(st.sampled_from(["nothing", "backbone", "everything"]))
    make, shape = _BACKBONES[backbone]

    names = draw(st.lists(st.sampled_from(_MISLEADING), min_size=len(kinds), max_size=len(kinds), unique=True))
    children: dict[str, nn.Module] = {"backbone": make(width), "tail": _TAILS[tail](classes)}
    heads: set[str] = set()
    for name, kind in zip(names, kinds, strict=True):
        build, path = _HEADS[kind]
        module = build(width, classes)
        for nesting in draw(st.lists(st.sampled_from(sorted(_NESTINGS)), max_size=2)):
            wrap, place = _NESTINGS[nesting]
            module, path = wrap(module), f"{place}.{path}".rstrip(".")
        children[name] = module
        heads.add(f"{name}.{path}".rstrip("."))

    model = _Planted(draw(st.booleans()), combine, structure)
    for name in draw(st.permutations(sorted(children))):
        model.add_module(name, children[name])
    model._head_names = list(names)
    if draw(st.booleans()):
        model.add_module("another_name", children[names[0]])
    if frozen != "nothing":
        target = model if frozen == "everything" else children["backbone"]
        target.requires_grad_(requires_grad=False)
    described = f"{backbone} {width} wide, {' + '.join(kinds)}, {combine}, {tail}, {structure}, {frozen} frozen"
    return PlantedModel(model.train(draw(st.booleans())), torch.randn(shape), frozenset(heads), classes, described)
