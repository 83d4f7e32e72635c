"""Assert that a freeze is right, whoever made it: before training on the data flow, and after it bit by bit."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from pytest_headswap._globs import matches_glob
from pytest_headswap._text import did_you_mean, join_first
from pytest_headswap.engine.abstract.infer_inputs import infer_inputs
from pytest_headswap.engine.dataflow.before_heads import before_heads
from pytest_headswap.engine.errors import HeadSwapError, HeadSwapWarning
from pytest_headswap.engine.freezing.awake import AwakeParts, heads_awake, in_eval_mode, noted_names, stages_awake
from pytest_headswap.engine.freezing.batch_mixing import find_mixing
from pytest_headswap.engine.freezing.observe import depends_on_generators
from pytest_headswap.engine.freezing.trainable import trainable_heads
from pytest_headswap.engine.freezing.verify import UNVERIFIED_SAMPLES, listed, where, with_two_samples
from pytest_headswap.engine.freezing.watched_graph import watch
from pytest_headswap.engine.pytorch.digest import digest
from pytest_headswap.engine.pytorch.inputs import Inputs, read_inputs
from pytest_headswap.engine.pytorch.modules import (
    buffers_of,
    named_buffers,
    named_modules,
    named_parameters,
    parameters_of,
)
from pytest_headswap.engine.pytorch.wrappers import unwrap

Trainable = str | nn.Parameter | Iterable[str | nn.Parameter]


def assert_frozen(model: nn.Module, example_inputs: Any = None, *, trainable: Trainable | None = None) -> FrozenValues:
    """Assert that everything in a model is frozen except what may train, with or without `freeze_backbone`.

    In train mode, as after `model.train()`, the frozen part must have no parameter that requires gradients or holds an
    old one, must write to none of its tensors, and must compute features that depend neither on chance nor on the rest
    of the batch. The model is run on shapes alone and left as it was.

    The result is a context manager, to be put around a training loop. At its end it compares the frozen parameters and
    buffers bit by bit with those at its start. It stores a digest of 32 bytes for each.

    Args:
        model: the model, on any device.
        example_inputs: as for `find_heads`.
        trainable: what may change: paths of modules, names of parameters and buffers, globs of these such as
            `"*lora_*"`, or parameters. None: the heads, as for `freeze_backbone`, and what it kept trainable or
            `unfreeze` has unfrozen.

    Returns:
        The context manager.

    Raises:
        AssertionError: the model is not frozen. The message lists each problem with its module and what to do.
        NoHeadError: the model has no head, and `trainable` is None.
        HeadSwapError: `bad_argument`: `trainable` names nothing in the model. Others as for `find_heads`.
    """
    inner, prefix = unwrap(model)
    inputs = read_inputs(example_inputs)
    if trainable is None:
        heads = trainable_heads(model, inputs)
        awake, inputs = _standard(inner, prefix, heads.names, heads.paths), heads.inputs
    else:
        awake = _selected(inner, prefix, trainable)
    *first, last = with_two_samples(inputs or infer_inputs(inner))
    try:
        problems = _data_flow(inner, awake, *first or [last])
    except HeadSwapError as error:
        if error.reason != "forward_failed" or not first:
            raise
        problems = _data_flow(inner, awake, last)
    problems = [*_flags(inner, awake), *problems]
    if problems:
        raise AssertionError(_message(type(inner).__name__, "is not frozen", problems))
    return FrozenValues(inner, awake)


class FrozenValues:
    """Compare the frozen tensors of a model at the end of a block with those at its start."""

    def __init__(self, model: nn.Module, awake: AwakeParts) -> None:
        self._model, self._awake = model, awake
        self._digests: dict[str, bytes] = {}

    def __enter__(self) -> FrozenValues:
        self._digests = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise AssertionError if a frozen tensor has changed. An exception of the block takes precedence."""
        if kind is not None:
            return
        now = self._now()
        parameters = {name for name, _ in named_parameters(self._model)}
        problems = [
            f"{name} {'has changed' if name in now else 'is gone'}: "
            + (
                "do not pass it to the optimizer, and set its grad to None"
                if name in parameters
                else f"keep {_owner(name)} in eval mode"
            )
            for name, value in self._digests.items()
            if now.get(name) != value
        ]
        problems += _flags(self._model, self._awake)
        if problems:
            raise AssertionError(_message(type(self._model).__name__, "did not stay frozen", problems))

    def _now(self) -> dict[str, bytes]:
        tensors = {**dict(named_parameters(self._model)), **dict(named_buffers(self._model))}
        return {name: digest(tensor.detach()) for name, tensor in tensors.items() if name not in self._awake.names}


def _standard(model: nn.Module, prefix: str, names: Iterable[str], paths: Iterable[str]) -> AwakeParts:
    """Return the heads, and what earlier freezes of the model left trainable."""
    own = {name.removeprefix(prefix) for name in names}
    heads = heads_awake(model, own, [f"{path}.".removeprefix(prefix).rstrip(".") for path in paths])
    unfrozen, kept = noted_names(model)
    registered = {name for found in (named_parameters(model), named_buffers(model)) for name, _ in found}
    others = (unfrozen | kept) & registered
    awake = {module for _, module in named_modules(model) if "train" not in module.__dict__} if others else set()
    return heads | AwakeParts(frozenset(others), frozenset(awake))


def _selected(model: nn.Module, prefix: str, trainable: Any) -> AwakeParts:
    """Return the parts that `trainable` names."""
    items = [trainable] if isinstance(trainable, (str, nn.Parameter)) else trainable
    if isinstance(items, (Mapping, torch.Tensor)) or not isinstance(items, Iterable):
        raise HeadSwapError("bad_argument", f"trainable must be paths, globs or parameters, not {type(items).__name__}")
    named = named_modules(model, include_aliases=True)
    tensors = [*parameters_of(named), *buffers_of(named)]
    known = [*(path for path, _ in named if path), *(name for name, _ in tensors)]
    found: set[str] = set()
    for item in items:
        if isinstance(item, nn.Parameter):
            matches = {name for name, value in tensors if value is item}
            shown = f"a parameter of shape {tuple(item.shape)}."
        elif isinstance(item, str):
            pattern = item.removeprefix(prefix)
            matches = {name for name in known if matches_glob(pattern, name)}
            shown = repr(item) + did_you_mean(pattern, known)
        else:
            raise HeadSwapError("bad_argument", f"trainable holds a {type(item).__name__}: pass its path in the model")
        if not matches:
            raise HeadSwapError("bad_argument", f"trainable names nothing in the model: {shown}")
        found |= matches
    return stages_awake(model, found)


def _flags(model: nn.Module, awake: AwakeParts) -> list[str]:
    """Return what is wrong with the parameters of the frozen part."""
    frozen = {name: value for name, value in named_parameters(model) if name not in awake.names}
    learning = [name for name, value in frozen.items() if value.requires_grad]
    stale = [name for name, value in frozen.items() if value.grad is not None and not value.requires_grad]
    problems = []
    if learning:
        problems.append(f"frozen parameters require gradients: {join_first(learning)}. Call requires_grad_(False)")
    if stale:
        problems.append(
            f"frozen parameters hold old gradients, which an optimizer would apply: {join_first(stale)}. Set grad to "
            "None"
        )
    return problems


def _data_flow(model: nn.Module, awake: AwakeParts, inputs: Inputs) -> list[str]:
    """Return what forward does in train mode that changes the frozen part or its features."""
    watched = watch(model, inputs, training=True)
    written = [name for name in watched.written if name not in awake.names]
    watched.graph.clear()
    problems = []
    if written:
        owners = join_first(list(dict.fromkeys(map(_owner, written))))
        problems.append(f"forward writes to {join_first(written)} in train mode: keep {owners} in eval mode")
    with in_eval_mode(awake.modules):
        watched = watch(model, inputs, training=True)
        heads = awake.head_names(model)
        before = before_heads(watched.graph, heads)
        places: dict[str, dict[str, None]] = {}
        for node in watched.nondeterministic:
            if node in before:
                what = "use and update batch statistics" if "batch_norm" in node.name else "draw random numbers"
                places.setdefault(what, {})[where(node)] = None
        problems += [
            f"these {what} in train mode, so keep them in eval mode through every train(): {join_first(list(found))}"
            for what, found in places.items()
        ]
        if watched.used_generators and (names := depends_on_generators(model, inputs, training=True)):
            problems.append(f"forward draws random numbers from {listed(names)}: draw them only in what is trained")
        mixing = find_mixing(watched.graph, watched.features(heads))
        if mixing is not None and "batch_norm" not in mixing.node.name:
            text = f"{mixing.node.name} in {where(mixing.node)}"
            if mixing.is_certain:
                problems.append(
                    f"{text} combines the samples of a batch: keep it in eval mode, or compute it per sample"
                )
            else:
                note = f"{text} may combine or exchange the samples of a batch: {UNVERIFIED_SAMPLES}"
                warnings.warn(note, HeadSwapWarning, stacklevel=4)
        watched.graph.clear()
    return problems


def _owner(name: str) -> str:
    return name.rpartition(".")[0] or "the model"


def _message(name: str, what: str, problems: Sequence[str]) -> str:
    return "\n".join([f"{name} {what}:", *(f"- {problem}" for problem in problems)])
