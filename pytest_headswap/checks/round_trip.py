"""`round_trip`: a swap can be undone, redone, copied and saved.

**Promise.** `restore()` brings back the original module, tensor and attribute objects, and `reapply()` the new
head. The swapped model can be swapped again: the engine finds the new head in its place, with the new class count.
A deep copy that is saved and loaded has the same keys, shapes and modes, and stays frozen. With values it computes the
same outputs. What also changes in a copy of the model as built, such as the mode of a layer, is only noted.

**Evidence.** Identities and attributes, and abstract runs for the second swap. With values: every bit of the tensors,
and the outputs up to rounding, since kernels round differently when memory is aligned differently. For models with more
than 67 million parameters the copy is run abstractly. Copies omit the large tensors of the backbone: the check tests
the model, not how torch saves a tensor.

**A failure means** that an experiment cannot be undone, or that a fine-tuned model changes when it is saved.
"""

from __future__ import annotations

import copy
import io
import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from pytest_headswap._text import join_first
from pytest_headswap.case.abstract_runs import run_mode
from pytest_headswap.case.calls_after_freeze import modules_in_train_mode
from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.case.structure_snapshot import StructureSnapshot
from pytest_headswap.case.value_snapshot import named_tensors
from pytest_headswap.engine import HeadSwapError, StandIns, detect_heads, detect_heads_in, flatten_outputs, substituted
from pytest_headswap.engine.pytorch import ModuleState, named_modules

_MAX_COPIED_ELEMENTS = 2**9  # a copy omits the values of backbone tensors with more elements


def round_trip(case: Case) -> str:
    """Undo and redo the swap, swap again, copy, save and load; return a note of what was not checked."""
    _undo_and_redo(case)
    _check_head_is_found_again(case)
    return _copy_and_save(case)


def _undo_and_redo(case: Case) -> None:
    swapped = StructureSnapshot(case.model)
    with case.original_head():
        different = case.original_structure.differences()
        if not different and case.original_values is not None:
            different = [f"{name} has different values" for name in case.original_values.changed()]
    if different:
        raise CheckFailed(f"restore() does not restore the original model: {join_first(different)}")
    different = swapped.differences()
    if different:
        raise CheckFailed(f"reapply() does not restore the new head: {join_first(different)}")


def _check_head_is_found_again(case: Case) -> None:
    """Check that the engine finds each new head in its place, with its class count."""
    inner, graph = case.plan.model, case.swapped_runs[False].graph
    try:
        if case.plan.prefix or graph is None:  # inside a wrapper the paths differ
            detected = detect_heads(inner, case.plan.inputs, train_mode=False).detected
        else:
            detected = detect_heads_in(inner, [graph]).detected
    except HeadSwapError as error:
        raise CheckFailed(f"the swapped model cannot be swapped again: {error.message}") from error
    counts = {case.plan.prefix + item.head.path: item.head.num_classes for item in detected}
    eval_outputs = case.original_runs[False].shapes.keys()
    for head in case.swap.heads:
        if eval_outputs.isdisjoint(head.outputs):
            continue  # this head returns outputs in train mode only
        if counts.get(head.path) != case.num_classes:
            now = ", ".join(f"{path!r} with {count} classes" for path, count in counts.items())
            raise CheckFailed(f"a second search does not find the new head {head.path!r}: found {now}")


def _copy_and_save(case: Case) -> str:
    with ExitStack() as stack:
        notes = []
        try:
            stack.enter_context(case.frozen())
        except HeadSwapError:
            notes.append("the copies were not frozen: the backbone cannot be frozen")
        expected = _copy_fingerprint(case.model)
        try:
            loaded = _saved_and_loaded(case)
        except Exception as error:
            reason = _cannot_be_copied(case)
            if not reason:
                raise CheckFailed(
                    f"the swapped model cannot be copied and saved: {type(error).__name__}: {error}"
                ) from error
            return f"copies were not checked, because the model as built cannot be copied: {reason}"
        copied = _copy_fingerprint(loaded)
        different = [name for name in expected | copied if expected.get(name) != copied.get(name)]
        awake = modules_in_train_mode(loaded, case.swap) if not notes else []
        if different or awake:
            stack.close()
            inexact = _changed_by_own_copying(case)
            different = [name for name in different if name not in inexact]
            awake = [path for path in awake if _mode_of(path) not in inexact]
            if not different and not awake:
                notes.append(f"copies of the model as built, too, differ in {join_first(sorted(inexact))}")
        if different:
            raise CheckFailed(f"copying, saving and loading changed {join_first(different)}")
        if awake:
            raise CheckFailed(f"in a copy of the frozen model, train() puts {join_first(awake)} into train mode")
        _restore_large_tensors(case, loaded)
        if case.numeric and not case.is_large:
            _check_same_outputs(case, loaded)
        else:
            _check_same_shapes(case, loaded)
        _break_cycles(loaded, case.model)
        if case.numeric and case.is_large:
            notes.append("the copy was run abstractly, because the model is large")
        return "; ".join(notes)


def _copy_fingerprint(model: nn.Module) -> dict[str, object]:
    """Return the names, shapes, dtypes and modes that a copy must share with the original."""
    fingerprint: dict[str, object] = {
        name: (tuple(value.shape), value.dtype, value.requires_grad) for name, value in model.named_parameters()
    }
    fingerprint.update((name, (tuple(value.shape), value.dtype)) for name, value in model.named_buffers())
    fingerprint.update((_mode_of(path), module.training) for path, module in named_modules(model))
    return fingerprint


def _mode_of(path: str) -> str:
    return f"the mode of {path or 'the model'}"


def _changed_by_own_copying(case: Case) -> set[str]:
    """Return what changes when the model as built, in eval mode, is copied and saved: its layers may copy inexactly."""
    original_state = ModuleState(case.model)
    with case.original_head():
        try:
            case.model.eval()
            expected, copied = _copy_fingerprint(case.model), _copy_fingerprint(_saved_and_loaded(case))
        finally:
            original_state.restore()
    return {name for name in expected | copied if expected.get(name) != copied.get(name)}


def _saved_and_loaded(case: Case) -> nn.Module:
    """Copy the model, save and load the copy, without the values of the backbone's large tensors."""
    with _without_large_tensors(case):
        file = io.BytesIO()
        copied = copy.deepcopy(case.model)
        torch.save(copied, file)
        _break_cycles(copied, case.model)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert isinstance(loaded, nn.Module)
    _restore_registries(loaded, case.model)
    return loaded


def _break_cycles(copied: nn.Module, model: nn.Module) -> None:
    """Release all parts of a copy at once: those of a frozen model form cycles, which would wait for the gc."""
    for module in _copies(copied, model):
        module.__dict__.clear()


def _copies(copied: nn.Module, model: nn.Module) -> list[nn.Module]:
    """Return the modules of a copy, except those shared with the model: a module may return itself as its copy."""
    own_ids = {id(module) for module in model.modules()}
    return [module for module in copied.modules() if id(module) not in own_ids]


def _cannot_be_copied(case: Case) -> str:
    with case.original_head():
        try:
            _saved_and_loaded(case)
        except Exception as error:  # noqa: BLE001 - pickle and the model's own methods may raise anything
            return f"{type(error).__name__}: {error}"
    return ""


@contextmanager
def _without_large_tensors(case: Case) -> Iterator[None]:
    head = {id(tensor) for tensor in case.swap.parameters()}
    large = {id(tensor) for _, tensor in named_tensors(case.model) if tensor.numel() > _MAX_COPIED_ELEMENTS} - head
    module_list = list(case.model.modules())
    with substituted(case.model, _WithoutLargeTensors(large), module_list):
        kinds: set[Any] = {type(module) for module in module_list}
        plain = all(map(_is_copied_as_torch_does, kinds))
        for module in module_list:
            state = module.__dict__
            for key, kind in _REGISTRIES.items():
                if key in state and not state[key]:
                    if plain and key not in _KEPT_REGISTRIES:
                        del state[key]
                    elif kind is not set:
                        state[key] = _EMPTY
        yield


class _WithoutLargeTensors(StandIns):
    """Stand-ins without memory for some tensors; all others share the memory of the original."""

    def __init__(self, large: set[int]) -> None:
        super().__init__()
        self._large = large

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        return super()._make(tensor) if id(tensor) in self._large else tensor.detach()


_EMPTY: OrderedDict[str, Any] = OrderedDict()
"""Replaces empty registries. Each module has fourteen, and copying them would take longer than all the rest."""


def _kept_registries() -> frozenset[str]:
    """Return the registries to keep: those needed to find modules, and those that torch recreates on copy or load.

    Recreating a registry takes longer than copying one.
    """
    module = nn.Module()
    module.__dict__.clear()
    module.__setstate__({})  # type: ignore[no-untyped-call, unused-ignore]
    return frozenset(module.__dict__) | {"_modules"}


_REGISTRIES = {key: type(value) for key, value in nn.Module().__dict__.items() if isinstance(value, (dict, set))}
_KEPT_REGISTRIES = _kept_registries()
_COPY_METHODS = ("__copy__", "__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")


@cache
def _is_copied_as_torch_does(kind: Any) -> bool:
    """Return whether torch's own code copies such a module: other code may read every registry."""
    for name in _COPY_METHODS:
        method = getattr(kind, name, None)
        if method is not getattr(nn.Module, name, None) and not method.__module__.startswith("torch.nn.modules."):
            return False
    return True


def _restore_registries(loaded: nn.Module, model: nn.Module) -> None:
    """Give each module of a copy its own registries."""
    for module in _copies(loaded, model):
        state = module.__dict__
        state.update((key, kind()) for key, kind in _REGISTRIES.items() if not state.get(key))


def _restore_large_tensors(case: Case, loaded: nn.Module) -> None:
    originals = dict(named_tensors(case.model))
    for path, module in named_modules(loaded, include_aliases=True):
        registries: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for registry in registries:
            for key, value in registry.items():
                if value is not None and value.is_meta:
                    registry[key] = originals[f"{path}.{key}".lstrip(".")]


def _check_same_shapes(case: Case, loaded: nn.Module) -> None:
    """Run a copy abstractly in eval mode, and compare its output shapes with the model's."""
    copied = run_mode(loaded, case.inputs, training=False)
    if copied.error is not None:
        raise CheckFailed(f"a copy of the model cannot be run: {copied.error.message}")
    if copied.shapes != case.swapped_runs[False].shapes:
        raise CheckFailed(
            f"a copy of the model returns {copied.shapes}, but the model itself {case.swapped_runs[False].shapes}"
        )


def _check_same_outputs(case: Case, loaded: nn.Module) -> None:
    """Run a copy in eval mode, and compare its outputs with the model's."""
    loaded.eval()
    with case.seeded("forward"), torch.no_grad():
        try:
            inputs = case.inputs.copied()
            outputs = loaded(*inputs.args, **inputs.kwargs)
        except Exception as error:
            raise CheckFailed(f"a copy of the model cannot be run: {type(error).__name__}: {error}") from error
    copied = dict(flatten_outputs(outputs))
    different = [
        label
        for label, tensor in flatten_outputs(case.evaluation.outputs)
        if label not in copied or not _close(tensor, copied[label])
    ]
    if different:
        raise CheckFailed(f"a copy of the model computes different values in {join_first(different)}")


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() or not one.numel():
        return torch.equal(one, other)
    allowed = math.sqrt(torch.finfo(one.dtype).eps) * float(one.abs().max())
    return float((one - other).abs().max()) <= allowed
