"""The strategy for planted models, and the model that it builds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_headswap.strategies.backbones import BACKBONES, CACHES, Cached, Gate, Steps
from pytest_headswap.strategies.heads import HEADS, NESTINGS, ONE_ROW_HEADS, ONE_ROW_TAILS, TAILS, TAILS_LIKE_A_BACKBONE
from pytest_headswap.strategies.outputs import STRUCTURES, class_outputs

_MISLEADING = ("fc", "head", "classifier", "stem", "features", "norm", "logits", "embed", "a", "zz")
_COUNT_NAMES = ("num_classes", "nc", "pred_dim", "c_out")
_COUNT_USES = ("unread", "read", "tuple")


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
        build_native: builds the same model for another class count. Whatever is the same in both does not depend on
            the class count, even if it happens to be as large.
        class_outputs: takes the outputs of forward and returns the tensors of the heads: (B, ..., classes).
        refusal: the reason code of the only right answer, such as `ambiguous`. Empty: the heads can be swapped.
    """

    model: nn.Module
    example_inputs: Tensor
    heads: frozenset[str]
    num_classes: int
    description: str
    build_native: Callable[[int], nn.Module]
    class_outputs: Callable[[Any], list[Tensor]]
    refusal: str = ""

    def __repr__(self) -> str:
        return f"PlantedModel({self.description}, heads={sorted(self.heads)}, num_classes={self.num_classes})"


@dataclass(frozen=True)
class _Head:
    name: str
    kind: str
    nestings: tuple[str, ...]

    @property
    def path(self) -> str:
        parts = [self.name, *(NESTINGS[nesting][1] for nesting in reversed(self.nestings)), HEADS[self.kind][1]]
        return ".".join(part for part in parts if part)

    def build(self, width: int, classes: int) -> nn.Module:
        module = HEADS[self.kind][0](width, classes)
        for nesting in self.nestings:
            module = NESTINGS[nesting][0](module)
        return module


@dataclass(frozen=True)
class _Options:
    """How a model is built for any class count."""

    seed: int
    backbone: str
    width: int
    items: int
    cache: str
    steps: tuple[str, int] | None
    gate: bool
    heads: tuple[_Head, ...]
    combine: str
    tail: str
    structure: str
    count: tuple[str, str] | None
    order: tuple[str, ...]
    aliased: bool
    frozen: str
    no_grad: bool
    training: bool

    def __str__(self) -> str:
        parts = [
            f"{self.backbone} {self.width} wide with {self.items} items",
            " + ".join(head.kind for head in self.heads),
            *(self.combine, self.tail, self.structure, f"{self.frozen} frozen"),
            self.cache and f"cached in {self.cache}",
            self.steps and f"{self.steps[0]} = {self.steps[1]}",
            self.gate and "gate",
            self.count and f"{self.count[0]} {self.count[1]}",
        ]
        return ", ".join(part for part in parts if part)

    def build(self, classes: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self._build(classes)

    def _build(self, classes: int) -> nn.Module:
        tail = TAILS[self.tail](classes)
        backbone = [BACKBONES[self.backbone].build(self.width, self.items)]
        if self.steps is not None:
            backbone.append(Steps(self.width, self.steps[1], self.steps[0]))
        if self.gate:
            backbone.append(Gate(self.width, tail if self.tail == "sigmoid" else nn.Sigmoid()))
        if self.cache:
            backbone.append(Cached(self.cache))
        children = {"backbone": backbone[0] if len(backbone) == 1 else nn.Sequential(*backbone), "tail": tail}
        children |= {head.name: head.build(self.width, classes) for head in self.heads}
        model = _Planted(self)
        for name in self.order:
            model.add_module(name, children[name])
        if self.aliased:
            model.add_module("another_name", children[self.heads[0].name])
        if self.count is not None:
            name, use = self.count
            setattr(model, name, (classes,) if use == "tuple" else classes)
        if self.frozen != "nothing":
            target = model if self.frozen == "everything" else children["backbone"]
            target.requires_grad_(requires_grad=False)
        return model.train(self.training)


class _Planted(nn.Module):
    """A backbone, heads and a tail, combined according to the drawn options."""

    def __init__(self, options: _Options) -> None:
        super().__init__()
        self._options = options

    def forward(self, x: Tensor) -> Any:
        options = self._options
        with torch.set_grad_enabled(torch.is_grad_enabled() and not options.no_grad):
            features = self.get_submodule("backbone")(x)
        logits = [self._reshaped(self.get_submodule(head.name)(features)) for head in options.heads]
        return STRUCTURES[options.structure](self._combined(logits), features)

    def _reshaped(self, logits: Tensor) -> Tensor:
        if self._options.count is None or self._options.count[1] == "unread":
            return logits
        count = getattr(self, self._options.count[0])
        return logits.reshape(*logits.shape[:-1], *(count if isinstance(count, tuple) else (count,)))

    def _combined(self, logits: list[Tensor]) -> Any:
        tail, combine = self.get_submodule("tail"), self._options.combine
        if combine == "sum":
            return tail(sum(logits[1:], logits[0]))
        if combine == "mean":
            return tail(torch.stack(logits).mean(0))
        if combine == "train only" and not self.training:
            return tail(sum(logits[1:], logits[0]) * 0.5)
        if combine == "list" and not self.training:
            return [tail(torch.stack(logits).mean(0))]  # combined in one mode, so all heads predict the same
        if combine == "different":
            return {f"task{number}": tail(item) for number, item in enumerate(logits)}
        return [tail(item) for item in logits]


@st.composite
def planted_models(draw: st.DrawFn) -> PlantedModel:
    """Generate random models with one to three heads in known places.

    They vary in:

    - backbone, width and kind of head; learned tables and counters that may be as large as the class count;
    - nesting, names and order of registration, and an alias for a head;
    - how the heads are combined, what follows them, and the structure of the outputs;
    - where the model states its class count, and whether forward reads it;
    - caches outside of modules, and an activation that backbone and heads share;
    - which parameters are frozen.

    The random weights come from a fixed set of seeds.
    """
    backbone = draw(st.sampled_from(sorted(BACKBONES)))
    excluded = set() if BACKBONES[backbone].one_row else ONE_ROW_HEADS | ONE_ROW_TAILS
    classes = draw(st.integers(2, 12))
    kinds = draw(st.lists(st.sampled_from(sorted(HEADS.keys() - excluded)), min_size=1, max_size=3))
    names = draw(st.lists(st.sampled_from(_MISLEADING), min_size=len(kinds), max_size=len(kinds), unique=True))
    nestings = st.lists(st.sampled_from(sorted(NESTINGS)), max_size=2)
    heads = tuple(_Head(name, kind, tuple(draw(nestings))) for name, kind in zip(names, kinds, strict=True))
    tail = draw(st.sampled_from(sorted(TAILS.keys() - excluded)))
    count = draw(st.sampled_from([None, *((name, use) for name in _COUNT_NAMES for use in _COUNT_USES)]))
    if tail in TAILS_LIKE_A_BACKBONE:
        count = ("num_classes", draw(st.sampled_from(["unread", "read"])))
    combinations = ["sum", "mean"]
    if len(heads) == 1 or tail not in TAILS_LIKE_A_BACKBONE:  # heads that share such a tail one by one are refused
        combinations += ["list", "train only", "different"]
    equal_or_not = st.sampled_from([3, 4, classes])
    options = _Options(
        seed=draw(st.integers(0, 3)),
        backbone=backbone,
        width=2 * draw(st.integers(2, 6)),
        items=draw(equal_or_not),
        cache=draw(st.sampled_from(["", "", "", *CACHES])),
        steps=draw(st.sampled_from([None, ("steps", draw(equal_or_not)), ("num_outputs", draw(equal_or_not))])),
        gate=draw(st.booleans()),
        heads=heads,
        combine=draw(st.sampled_from(combinations)),
        tail=tail,
        structure=draw(st.sampled_from(sorted(STRUCTURES))),
        count=count,
        order=tuple(draw(st.permutations(sorted({"backbone", "tail", *names})))),
        aliased=draw(st.booleans()),
        frozen=draw(st.sampled_from(["nothing", "backbone", "everything"])),
        no_grad=draw(st.booleans()),
        training=draw(st.booleans()),
    )
    generator = torch.Generator().manual_seed(options.seed)
    return PlantedModel(
        model=options.build(classes),
        example_inputs=torch.randn(BACKBONES[backbone].input_shape, generator=generator),
        heads=frozenset(head.path for head in heads),
        num_classes=classes,
        description=str(options),
        build_native=options.build,
        class_outputs=partial(class_outputs, options.structure),
        refusal="ambiguous" if options.combine == "different" and len(heads) > 1 else "",
    )
