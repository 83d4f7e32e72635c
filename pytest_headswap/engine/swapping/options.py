"""The arguments of `swap_head` that describe the new head, validated."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from pytest_headswap._numbers import as_count
from pytest_headswap.engine.detection.describe import DetectedHead
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.swapping.class_map import ClassMap, resolve_class_map
from pytest_headswap.engine.swapping.initialization import INITS, Init
from pytest_headswap.engine.swapping.replace import NewHead

_MAX_CLASSES = 2**31 - 1


@dataclass(frozen=True)
class SwapOptions:
    """The new head. The attributes are the arguments of `swap_head`; `num_classes` becomes an `int`.

    Raises:
        HeadSwapError: `bad_num_classes` or `bad_argument`, for invalid values.
    """

    num_classes: int
    new_head: NewHead | None = None
    init: Init = "default"
    class_map: ClassMap | None = None
    class_names: Sequence[str] | None = None
    activation: str = "keep"

    def __post_init__(self) -> None:
        count = as_count(self.num_classes)
        if count is None or not 0 <= count <= _MAX_CLASSES:
            raise HeadSwapError(
                "bad_num_classes",
                f"num_classes must be a whole number of at least 1 and less than 2**31, or 0 to remove the head, not "
                f"{self.num_classes!r}",
            )
        object.__setattr__(self, "num_classes", count)
        if self.new_head is not None and count == 0:
            raise HeadSwapError("bad_argument", "num_classes=0 removes the head: do not pass new_head")
        if self.new_head is not None and not callable(self.new_head):
            raise HeadSwapError(
                "bad_argument",
                "new_head must be a module or a function of (in_features, num_classes), "
                f"not {type(self.new_head).__name__}",
            )
        if callable(self.init) and not _takes(self.init, "weight", torch.empty(0)):
            raise HeadSwapError("bad_argument", "init must take two arguments: the name of a tensor and the tensor")
        is_function = self.new_head is not None and not isinstance(self.new_head, nn.Module)
        if is_function and not _takes(self.new_head, 1, count):
            raise HeadSwapError("bad_argument", "new_head must take two arguments: in_features and num_classes")
        if not callable(self.init) and self.init not in INITS:
            raise HeadSwapError(
                "bad_argument",
                f"init must be one of {', '.join(INITS)} or a function of (name, tensor), not {self.init!r}. For a "
                "normal distribution, pass init=lambda name, tensor: torch.nn.init.normal_(tensor, std=0.01)",
            )
        if self.activation not in ("keep", "drop"):
            raise HeadSwapError("bad_argument", f"activation must be 'keep' or 'drop', not {self.activation!r}")
        names = self.class_names
        if names is not None and not _are_names(names, count):
            raise HeadSwapError(
                "bad_argument", f"class_names must contain {count} names in a list of str, one for each new class"
            )


class HeadSwap(NamedTuple):
    """A head, and what replaces it. `classes` maps new class indices to the old ones whose values are kept."""

    item: DetectedHead
    options: SwapOptions
    classes: dict[int, int] = {}  # noqa: RUF012 - never changed

    def with_classes(self, names: Mapping[str, int]) -> HeadSwap:
        """Return the swap with the classes of `class_map`. `names` has the index of each old class name."""
        classes = resolve_class_map(names, self.options.class_map, self.new_count, self.old_count)
        return self._replace(classes=classes)

    @property
    def old_count(self) -> int:
        """Return the class count of the old head."""
        return self.item.head.num_classes

    @property
    def new_count(self) -> int:
        """Return the class count of the new head."""
        return self.options.num_classes


def _takes(function: Any, *arguments: object) -> bool:
    """Return whether a function can be called with these arguments, or does not say."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _are_names(names: object, count: int) -> bool:
    if isinstance(names, (str, bytes, Mapping)) or not hasattr(names, "__len__") or not hasattr(names, "__getitem__"):
        return False  # the order of a set is arbitrary
    return len(names) == count and all(isinstance(names[index], str) for index in range(count))
