"""Check the arguments of `swap_head`, and select the heads to swap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_headswap._numbers import as_count
from pytest_headswap.engine.detection.describe import DetectedHead
from pytest_headswap.engine.errors import HeadSwapError


def validate_arguments(num_classes: Any, new_head: Any, activation: Any, names: Sequence[str] | None) -> int:
    """Check the arguments of `swap_head` and return the class count as `int`.

    Raises:
        HeadSwapError: `bad_num_classes` or `bad_argument`, for invalid arguments.
    """
    count = as_count(num_classes)
    if count is None or count < 0:
        raise HeadSwapError(
            "bad_num_classes",
            f"num_classes must be a whole number of at least 1, or 0 to remove the head, not {num_classes!r}",
        )
    if count == 0 and new_head is not None:
        raise HeadSwapError("bad_argument", "num_classes=0 removes the head: do not pass new_head")
    if new_head is not None and not callable(new_head):
        raise HeadSwapError(
            "bad_argument",
            f"new_head must be a module or a function of (in_features, num_classes), not {type(new_head).__name__}",
        )
    if activation not in ("keep", "drop"):
        raise HeadSwapError("bad_argument", f"activation must be 'keep' or 'drop', not {activation!r}")
    if names is not None and (isinstance(names, str) or len(names) != count):
        raise HeadSwapError("bad_argument", f"class_names must contain {count} names, one for each new class")
    return count


def select_heads(
    detected: Sequence[DetectedHead], declared: int | None, requested: str | Sequence[str] | None, prefix: str
) -> Sequence[DetectedHead]:
    """Return the heads to swap: the `requested` ones, or all that have the class count the model declares.

    If all heads have the same class count, all of them are chosen.

    Raises:
        HeadSwapError: `unknown_head`, or `ambiguous` if the heads predict different things.
    """
    listing = ", ".join(f"{prefix + item.head.path!r} ({item.head.num_classes} classes)" for item in detected)
    if requested is not None:
        known = {prefix + name: item for item in detected for name in (item.head.path, *item.head.aliases)}
        paths = [requested] if isinstance(requested, str) else list(requested)
        for path in paths:
            if path not in known:
                raise HeadSwapError("unknown_head", f"there is no head at {path!r}. This model has {listing}")
        return list({id(known[path]): known[path] for path in paths}.values())
    selected = list(detected)
    if len({item.head.num_classes for item in detected}) > 1:
        selected = [item for item in detected if item.head.num_classes == declared]
    if not selected:
        raise HeadSwapError(
            "ambiguous",
            f"the model has several heads with different class counts: {listing}. Pass head=PATH to select one",
        )
    outputs = {output for item in selected for output in item.outputs}
    if len({(output.training, output.label) for output in outputs}) < len(outputs):
        raise HeadSwapError(
            "ambiguous", f"several dimensions of one output depend on a head: {listing}. Pass head=PATH to select one"
        )
    return selected
