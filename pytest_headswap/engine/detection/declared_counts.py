"""Read the class count that a model states, and compare it with the heads that were found."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from pytest_headswap._numbers import as_count
from pytest_headswap._text import join_first
from pytest_headswap.engine.detection.describe import DetectedHead
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.modules import named_buffers, named_parameters


def declared_num_classes(model: nn.Module) -> int | None:
    """Return the class count that the model or its configuration declares, or None.

    It is the first of `num_classes` and `num_labels` that is a whole number.
    """
    for owner in (model, getattr(model, "config", None)):
        for name in ("num_classes", "num_labels"):
            count = as_count(getattr(owner, name, None))
            if count is not None:
                return count
    return None


def count_disagreement(
    model: nn.Module, declared: int | None, detected: Sequence[DetectedHead], used: Collection[str]
) -> HeadSwapError | None:
    """Return the error `count_disagrees` if no head has the class count that the model declares, or None.

    `used` are the names of the tensors that some output depends on.

    A head may have another count if the model or its configuration states it too, such as the vocabulary size of a
    speech model, and no other tensor has that size. The slot of a model without a head has no count. It is in doubt
    only if some tensor has the declared one.
    """
    if not declared or any(item.head.num_classes == declared for item in detected):
        return None
    counts = {item.head.num_classes for item in detected}
    own = {name for item in detected for tensor in item.tensors for name in tensor.names}
    tensors = {**dict(named_parameters(model)), **dict(named_buffers(model))}
    sizes = {size for name, tensor in tensors.items() if name not in own for size in tensor.shape}
    if (counts & _stated_numbers(model)) - sizes:
        return None
    having = [name for name, tensor in tensors.items() if declared in tensor.shape]
    unused = [name for name in having if name not in used]
    if counts == {0} and not having:
        return None
    found = join_first([f"{item.name} ({item.head.num_classes or item.head.in_features})" for item in detected])
    if unused:
        elsewhere = f"this forward does not use {join_first(unused)}, which has a dimension of {declared}"
    elif having:
        elsewhere = f"of its other tensors, {join_first(having)} has a dimension of {declared}"
    else:
        elsewhere = f"no tensor of the model has a dimension of {declared}"
    return HeadSwapError(
        "count_disagrees",
        f"{type(model).__name__} declares {declared} classes, but the layers that set its outputs have other sizes: "
        f"{found}. {elsewhere[0].upper()}{elsewhere[1:]}. If {detected[0].name!r} is the head after all, pass it as "
        "head=PATH or correct num_classes or num_labels. Otherwise swap a model whose outputs have the classes",
    )


def _stated_numbers(model: nn.Module) -> set[int]:
    """Return the whole numbers among the attributes of the model and of its configuration."""
    owners = (model, getattr(model, "config", None))
    values = (value for owner in owners for value in getattr(owner, "__dict__", {}).values())
    return {count for value in values if (count := as_count(value)) is not None}
