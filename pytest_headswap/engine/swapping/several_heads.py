"""Read the arguments of a swap that gives each head a class count of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_headswap._text import did_you_mean
from pytest_headswap.engine.detection.describe import DetectedHead
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.swapping.initialization import Init
from pytest_headswap.engine.swapping.options import SwapOptions
from pytest_headswap.engine.swapping.plan import SwapPlan
from pytest_headswap.engine.swapping.select_heads import requested_heads


def options_by_path(
    counts: Mapping[str, int],
    head: object,
    new_head: Any,
    init: Init,
    class_map: Any,
    class_names: Any,
    activation: str,
) -> dict[str, SwapOptions]:
    """Return the options of each head that the mapping `counts` names, by its path.

    Raises:
        HeadSwapError: `bad_argument` or `bad_num_classes`, for invalid values.
    """
    if head is not None:
        raise HeadSwapError("bad_argument", "num_classes is a mapping, which names the heads: do not pass head")
    if not counts or not all(isinstance(path, str) for path in counts):
        raise HeadSwapError(
            "bad_argument", f"num_classes must map the path of each head to its class count, not {dict(counts)!r}"
        )
    if new_head is not None and not isinstance(new_head, Mapping):
        new_head = dict.fromkeys(counts, new_head)
    given = {"new_head": new_head, "class_map": class_map, "class_names": class_names}
    for name, value in given.items():
        check_paths(name, value, counts)
    options = {}
    for path, count in counts.items():
        own = {name: value[path] for name, value in given.items() if value is not None and path in value}
        try:
            options[path] = SwapOptions(count, init=init, activation=activation, **own)
        except HeadSwapError as error:
            message = error.message.removeprefix(f"[{error.reason}] ")
            raise HeadSwapError(error.reason, f"{path!r}: {message}") from None
        if options[path].num_classes == 0:
            raise HeadSwapError(
                "bad_num_classes",
                f"{path!r}: a mapping gives heads class counts of at least 1. To remove a head, call swap_head with "
                f"num_classes=0 and head={path!r}",
            )
    return options


def check_paths(name: str, value: object, counts: Mapping[str, int]) -> None:
    """Check that an argument is a mapping with some of the paths that `counts`, the mapping `num_classes`, has.

    Raises:
        HeadSwapError: `bad_argument`.
    """
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(isinstance(path, str) for path in value):
        raise HeadSwapError(
            "bad_argument", f"num_classes is a mapping of paths, so {name} must be one too, not {value!r}"
        )
    unknown = next((path for path in value if path not in counts), None)
    if unknown is not None:
        raise HeadSwapError(
            "bad_argument",
            f"{name} has a value for {unknown!r}, which num_classes does not name{did_you_mean(unknown, counts)}",
        )


def paths_of_heads(plan: SwapPlan, requested: Sequence[str]) -> list[str]:
    """Return the requested path of each head of the plan; "" for one that follows another head.

    Raises:
        HeadSwapError: `bad_argument`, if two paths lead to the same head.
    """
    paths: dict[tuple[str, ...], str] = {}
    for path, items in requested_heads(plan.model, plan.search_result, requested, plan.prefix).items():
        for item in items:
            first = paths.setdefault(_key(item), path)
            if first != path:
                raise HeadSwapError(
                    "bad_argument", f"{first!r} and {path!r} are names of the same head: pass only one of them"
                )
    return [paths.get(_key(item), "") for item in plan.selected]


def _key(item: DetectedHead) -> tuple[str, ...]:
    return item.head.tensors or (item.head.path,)
