"""Select the heads to swap."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_headswap.engine.detection.describe import DetectedHead
from pytest_headswap.engine.errors import HeadSwapError


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
