"""Select the heads to swap."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from torch import nn

from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.swapping.unseen_heads import requested_unseen_heads

if TYPE_CHECKING:
    from pytest_headswap.engine.detection.describe import DetectedHead
    from pytest_headswap.engine.detection.search_result import SearchResult


def select_heads(
    model: nn.Module, result: SearchResult, requested: str | Sequence[str] | None, prefix: str
) -> Sequence[DetectedHead]:
    """Return the heads to swap: the `requested` ones, or those that the evidence supports.

    A request is a path, or the name of a tensor of the head. It may also be a class-sized layer that no output shows.
    Without one, these are the heads that an arg-max chooses
    from, or else those with the class count that the model declares. If all heads have the same class count, all of
    them are chosen, unless two of them may predict different things. A head that computes a number from the classes of
    another one is not chosen. Heads that were requested carry no caution.

    Raises:
        HeadSwapError: `bad_argument`, `unknown_head`, `count_disagrees`, or `ambiguous` if the heads predict different
            things.
    """
    detected = result.detected
    if requested is not None:
        found = requested_heads(model, result, _paths(requested), prefix)
        selected = list({id(item): item for items in found.values() for item in items}.values())
        if isinstance(requested, str):
            _check_boxes(result, selected[0], prefix)
        return [replace(_with_boxes(result, item, selected), caution="") for item in selected]
    if result.doubt is not None:
        raise result.doubt
    selected = _chosen_by_model(result) or [item for item in detected if not item.is_behind]
    if len({item.head.num_classes for item in selected}) > 1:
        selected = [item for item in selected if item.head.num_classes == result.declared_num_classes]
    listing = _listing(result, prefix)
    if not selected:
        raise HeadSwapError(
            "ambiguous",
            f"the model has several heads with different class counts: {listing}. Pass head=PATH to select one, or a "
            "mapping such as {PATH: 5, PATH: 4} as num_classes to swap several",
        )
    for one, other in combinations(selected, 2):
        if _compete(result, one, other):
            raise HeadSwapError(
                "ambiguous",
                f"{prefix + one.name!r} and {prefix + other.name!r} are both {one.head.num_classes} wide, but may "
                "predict different things, such as classes and coordinates. Pass head=PATH with one of them, or a list "
                "of both",
            )
    outputs = {output for item in selected for output in item.outputs}
    if len(selected) > 1 and len({(output.training, output.label) for output in outputs}) < len(outputs):
        raise HeadSwapError(
            "ambiguous",
            f"several dimensions of one output depend on a head: {listing}. Pass head=PATH to select one",
        )
    return selected


def _paths(requested: object) -> list[str]:
    if isinstance(requested, str):
        return [requested]
    wanted = "head must be a path or a list of paths"
    if isinstance(requested, Mapping) or not isinstance(requested, (Sequence, Set)):
        raise HeadSwapError("bad_argument", f"{wanted}, not {type(requested).__name__}")
    paths = list(requested)
    other = next((type(path).__name__ for path in paths if not isinstance(path, str)), "")
    if other or not paths:
        raise HeadSwapError("bad_argument", f"{wanted}, not {f'a list with {other}' if other else 'an empty list'}")
    return paths


def requested_heads(
    model: nn.Module, result: SearchResult, paths: Sequence[str], prefix: str
) -> dict[str, list[DetectedHead]]:
    """Return the heads at each path.

    Raises:
        HeadSwapError: `unknown_head`.
    """
    known = {prefix + name: [item] for item in result.detected for name in item.head.tensors}
    known |= {prefix + name: [item] for item in result.detected for spec in item.tensors for name in spec.names}
    known.update((prefix + name, [item]) for item in result.detected for name in (item.head.path, *item.head.aliases))
    counts = {item.head.num_classes for item in result.detected}
    for path in paths:
        if path not in known:
            unseen = requested_unseen_heads(model, path.removeprefix(prefix), counts)
            if not unseen:
                near = difflib.get_close_matches(path, known, n=1)
                question = f": did you mean {near[0]!r}?" if near else "."
                listing = _listing(result, prefix)
                raise HeadSwapError("unknown_head", f"there is no head at {path!r}{question} This model has {listing}")
            known[path] = unseen
    return {path: known[path] for path in paths}


def _listing(result: SearchResult, prefix: str) -> str:
    return ", ".join(f"{prefix + item.name!r} ({item.head.num_classes} classes)" for item in result.detected)


def _check_boxes(result: SearchResult, item: DetectedHead, prefix: str) -> None:
    """Raise if another head may hold box coordinates for each class of this one."""
    for other in result.detected:
        if result.boxes.get(_key(other)) == _key(item):
            one, both = prefix + item.name, [prefix + item.name, prefix + other.name]
            raise HeadSwapError(
                "ambiguous",
                f"{other.name!r} is {other.head.num_classes} wide, which may be four coordinates for each of the "
                f"{item.head.num_classes} classes of {item.name!r}. Pass head={both} to swap both, with four new "
                f"values per class, or head={[one]} to swap only that head",
            )


def _with_boxes(result: SearchResult, item: DetectedHead, selected: Sequence[DetectedHead]) -> DetectedHead:
    """Return the head. If it holds box coordinates for the classes of another selected head, it has its class count."""
    classes = next((other for other in selected if result.boxes.get(_key(item)) == _key(other)), None)
    if classes is None:
        return item
    per_class = item.head.num_classes // classes.head.num_classes
    tensors = tuple(replace(tensor, inner=tensor.inner * per_class) for tensor in item.tensors)
    return replace(item, head=replace(item.head, num_classes=classes.head.num_classes), tensors=tensors)


def with_own_counts(
    result: SearchResult, selected: Sequence[DetectedHead], counts: Sequence[int]
) -> tuple[DetectedHead, ...]:
    """Return the heads that get these class counts.

    Box coordinates have as many classes as the head with the classes only if both get the same count.
    """
    found = {_key(item): item for item in result.detected}
    new = dict(zip(map(_key, selected), counts, strict=True))
    return tuple(
        replace(found[_key(item)], caution="")
        if new.get(result.boxes.get(_key(item), ""), new[_key(item)]) != new[_key(item)]
        else item
        for item in selected
    )


def _key(item: DetectedHead) -> str:
    return item.tensors[0].names[0] if item.tensors else ""


def _chosen_by_model(result: SearchResult) -> list[DetectedHead]:
    """Return the heads that an arg-max chooses from, and those of the same size that do not compete with them."""
    chosen = [item for item in result.detected if item.is_chosen_from]
    counts = {item.head.num_classes for item in chosen}
    return [
        item
        for item in result.detected
        if item.is_chosen_from
        or (item.head.num_classes in counts and not any(_compete(result, item, other) for other in chosen))
    ]


def _compete(result: SearchResult, one: DetectedHead, other: DetectedHead) -> bool:
    return frozenset((_key(one), _key(other))) in result.competing
