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
from collections.abc import Iterator
from typing import Any

from torch import nn

from pytest_headswap._numbers import as_count
from pytest_headswap._text import join_first
from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed, CheckSkipped
from pytest_headswap.engine.pytorch import named_buffers, named_modules, named_parameters

_COUNTS_CLASSES = re.compile(r"(^|_)(num|n|nb|number_of)_?(class|classes|labels|cls)$")
_SIZE = "a collection of {} entries"


def metadata(case: Case) -> str:
    """Compare with the native model, or look for the old count and return a note if there is none."""
    _check_heads_exist(case)
    old = {head.num_classes for head in case.swap.old_heads} - {0}
    declared = dict(_declared_counts(case.model))
    try:
        native = dict(_declared_counts(case.native))
    except CheckSkipped as skip:
        _check_no_stale_count(case, declared)
        return f"only attributes named after class counts were checked: {skip.message}"
    different = [
        f"{name} is {declared[name]}, but {value} in the native model"
        for name, value in native.items()
        if name in declared and declared[name] != value and not _is_collection_of_its_own(declared[name], old)
    ]
    if different:
        raise CheckFailed(f"attributes do not match {case.num_classes} classes: {join_first(different)}")
    _check_no_stale_count(case, declared)
    return ""


def _is_collection_of_its_own(declared: str, old: set[int]) -> bool:
    """Return whether a collection has other entries than one per class, such as a model's constructor arguments."""
    return declared.endswith("entries") and declared not in {_SIZE.format(count) for count in old}


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


def _check_no_stale_count(case: Case, declared: dict[str, str]) -> None:
    """Raise if an attribute named after a class count still has the old count."""
    for head in case.swap.old_heads:
        if head.num_classes in (0, case.num_classes):
            continue
        stale = [
            name
            for name, value in declared.items()
            if value == str(head.num_classes) and _COUNTS_CLASSES.search(name.rpartition(".")[2])
        ]
        if stale and not _belongs_to_other_head(case, head.num_classes):
            raise CheckFailed(f"attributes still have the old class count {head.num_classes}: {join_first(stale)}")


def _belongs_to_other_head(case: Case, count: int) -> bool:
    """Return whether a head that was not swapped has this class count: an attribute may refer to that head."""
    not_swapped = (item for item in case.plan.search_result.detected if item not in case.plan.selected)
    return any(item.head.num_classes == count for item in not_swapped)


def _declared_counts(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the integers and the sizes of collections in a model's modules and configurations."""
    visited: set[int] = set()
    for path, module in named_modules(model):
        for prefix, owner in ((path, module), (f"{path}.config".lstrip("."), getattr(module, "config", None))):
            state: dict[str, Any] | None = getattr(owner, "__dict__", None)
            if state is None or id(owner) in visited:
                continue
            visited.add(id(owner))
            for key, value in state.items():
                name = f"{prefix}.{key}".lstrip(".")
                if key in _REGISTRIES or isinstance(value, (bool, nn.Module)):
                    continue
                count = as_count(value)
                if count is not None:
                    yield name, str(count)
                elif isinstance(value, (dict, list, tuple, set)):
                    yield name, _SIZE.format(len(value))


_REGISTRIES = frozenset(nn.Module().__dict__)
