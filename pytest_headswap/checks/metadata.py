"""`metadata`: the class counts that the model declares match its heads.

**Promise.** Every number and collection that depends on the class count has the value that the zoo would set:
`num_classes`, `num_labels`, `out_features`, `id2label` and the like, under any name. This covers the model, its layers
and its configuration. If the zoo cannot build a model for the new count, no attribute named after a class count still
has the old count. The heads that the swap names exist in the model.

**Evidence.** Attributes of two models: the swapped one, and one that the zoo built with the new count.

**A failure means** that a loss reshapes logits with the old count, or that a report names the wrong classes. The model
may also be saved with a configuration that builds a different model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sized
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from pytest_headswap._text import join_first
from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed, CheckSkipped
from pytest_headswap.engine import places_of, whole_number
from pytest_headswap.engine.pytorch import named_buffers, named_modules, named_parameters, owner_path

_COUNTS_CLASSES = re.compile(r"(^|[^A-Za-z0-9])(num|n|nb|number_of)_?(class|classes|labels|cls)('\])?$")
_MAX_PER_CLASS = 8
"""Values per class of the widest head, such as four coordinates for each of two boxes."""


@dataclass(frozen=True)
class _Declared:
    """A number, the size of a collection, or the shape of an array. `sizes` has the numbers in it."""

    form: str
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        return self.form.format(*self.sizes) if self.form else f"of shape {self.sizes}"


_NUMBER, _COLLECTION, _ARRAY = "{}", "a collection of {} entries", ""


def metadata(case: Case) -> str:
    """Compare with the native model, or look for the old count and return a note if there is none."""
    _check_heads_exist(case)
    old = {head.num_classes for head in case.swap.old_heads} - {0}
    layers = {owner_path(name) for head in case.swap.heads for name in head.tensors}
    declared = dict(_declared_counts(case.model, layers))
    try:
        native = dict(_declared_counts(case.native, layers))
    except CheckSkipped as skip:
        _check_no_stale_count(case, declared)
        return f"only attributes named after class counts were checked: {skip.message}"
    different = [
        f"{name} is {declared[name]}, but {value} in the native model"
        for name, value in native.items()
        if name in declared and _counts_other_classes(name, declared[name], value, old, case.num_classes)
        if not (owner_path(name) in layers and _is_size_of_parameter(case, name, declared[name], value))
    ]
    if different:
        raise CheckFailed(f"attributes do not match {case.num_classes} classes: {join_first(different)}")
    _check_no_stale_count(case, declared)
    return ""


def _counts_other_classes(name: str, own: _Declared, native: _Declared, old: set[int], new: int) -> bool:
    """Return whether the class count explains the native value, and it is not the model's own.

    Other values may merely differ, such as a number of parameters or of models built so far: a number that is not named
    after a class count must be the same multiple of the old count. So may collections that do not have one entry for
    each class, such as a model's constructor arguments.
    """
    if own.form != native.form or len(own.sizes) != len(native.sizes):
        return False
    if own.form == _COLLECTION and not old.issuperset(own.sizes):
        return False
    different = [(mine, other) for mine, other in zip(own.sizes, native.sizes, strict=True) if mine != other]
    with_extra_class = {(count + extra, new + extra) for count in old for extra in (-1, 1)}
    multiples = range(1, _MAX_PER_CLASS + 1)
    any_own = own.form != _NUMBER or _COUNTS_CLASSES.search(name)
    pairs = with_extra_class | {(count * times, new * times) for count in old for times in multiples}
    explained = {new * times for times in multiples}
    return bool(different) and all(pair in pairs or (any_own and pair[1] in explained) for pair in different)


def _is_size_of_parameter(case: Case, name: str, own: _Declared, native: _Declared) -> bool:
    """Return whether a number is a dimension of a parameter of the layer, which differs in the native model too."""
    layers = (model.get_submodule(owner_path(name)) for model in (case.model, case.native))
    sizes = ([size for tensor in layer.parameters(recurse=False) for size in tensor.shape] for layer in layers)
    return own.form == _NUMBER and (*own.sizes, *native.sizes) in zip(*sizes, strict=False)


def _check_heads_exist(case: Case) -> None:
    if case.swap.num_classes != case.num_classes:
        raise CheckFailed(f"the swap reports {case.swap.num_classes} classes instead of {case.num_classes}")
    tensors = {name for name, _ in (*named_parameters(case.model), *named_buffers(case.model))}
    for head in case.swap.heads:
        if head.num_classes != case.num_classes:
            raise CheckFailed(f"the head {head.path!r} reports {head.num_classes} classes after the swap")
        missing = [name for name in head.tensors if name not in tensors]
        if missing:
            raise CheckFailed(
                f"the head {head.path!r} names tensors that the model does not have: {join_first(missing)}"
            )
        module = case.model.get_submodule(head.path)
        other = [alias for alias in head.aliases if case.model.get_submodule(alias) is not module]
        if other:
            raise CheckFailed(
                f"{join_first(other)} should be the same layer as the head {head.path!r}, but is a different layer"
            )


def _check_no_stale_count(case: Case, declared: dict[str, _Declared]) -> None:
    """Raise if an attribute named after a class count still has the old count."""
    for head in case.swap.old_heads:
        if head.num_classes in (0, case.num_classes):
            continue
        stale = [
            name
            for name, value in declared.items()
            if value == _Declared(_NUMBER, (head.num_classes,)) and _COUNTS_CLASSES.search(name)
        ]
        if stale and not _belongs_to_other_head(case, head.num_classes):
            raise CheckFailed(f"attributes still have the old class count {head.num_classes}: {join_first(stale)}")


def _belongs_to_other_head(case: Case, count: int) -> bool:
    """Return whether a head that was not swapped has this class count: an attribute may refer to that head."""
    not_swapped = (item for item in case.plan.search_result.detected if item not in case.plan.selected)
    return any(item.head.num_classes == count for item in not_swapped)


def _declared_counts(model: nn.Module, layers: Collection[str]) -> Iterator[tuple[str, _Declared]]:
    """Yield the numbers, collections and arrays that modules store at any depth, and what properties count.

    Leave out what torch's own layers say about their parameters, except in the `layers` of the head.
    """
    seen: set[int] = set()
    for path, module in named_modules(model):
        if module._parameters and type(module).__module__.startswith("torch.") and path not in layers:
            continue
        for place, value in places_of(module, path, seen):
            declared = _declared_at(place.name, value)
            if declared is not None:
                yield place.label, declared
        for key, buffer in module._buffers.items():
            if buffer is not None and (buffer.dim() or _COUNTS_CLASSES.search(key)):
                yield f"{path}.{key}".lstrip("."), _declared_by(buffer)
    for name in dir(type(model)):
        if _COUNTS_CLASSES.search(name) and isinstance(getattr(type(model), name), property):
            with suppress(Exception):  # a property may raise anything
                yield name, _Declared(_NUMBER, (int(getattr(model, name)),))


def _declared_at(name: str, value: object) -> _Declared | None:
    if isinstance(value, str):
        counts = value.strip().isdecimal() and _COUNTS_CLASSES.search(name)
        return _Declared(_NUMBER, (int(value),)) if counts else None
    count = whole_number(value)
    if count is not None:
        return _Declared(_NUMBER, (count,))
    if hasattr(value, "shape"):
        return _Declared(_ARRAY, tuple(value.shape))
    return _Declared(_COLLECTION, (len(value),)) if isinstance(value, Sized) else None


def _declared_by(buffer: torch.Tensor) -> _Declared:
    count = whole_number(buffer)
    return _Declared(_ARRAY, tuple(buffer.shape)) if count is None else _Declared(_NUMBER, (count,))
