"""Read `class_map`: the old class from which each new class takes its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_headswap._numbers import as_count
from pytest_headswap.engine.errors import HeadSwapError

ClassMap = Mapping[int, int | str] | Sequence[int | str | None]


def resolve_class_map(
    names: Mapping[str, int], class_map: ClassMap | None, new_count: int, old_count: int
) -> dict[int, int]:
    """Return `class_map` as a mapping of new class index to old class index. `names` has the index of each old name.

    Raises:
        HeadSwapError: `bad_argument`, for an index out of range or an unknown class name.
    """
    if class_map is None:
        return {}
    pairs: list[tuple[object, object]]
    entries: object = class_map.tolist() if hasattr(class_map, "tolist") else class_map  # an array or a tensor
    if isinstance(entries, Mapping):
        pairs = list(entries.items())
    elif isinstance(entries, Sequence) and not isinstance(entries, str):
        if len(entries) > new_count:
            raise HeadSwapError("bad_argument", f"class_map has {len(entries)} entries for {new_count} new classes")
        pairs = [(new, old) for new, old in enumerate(entries) if old is not None]
    else:
        raise HeadSwapError(
            "bad_argument",
            "class_map must be a mapping of new class index to old index or name, or a sequence of those, "
            f"not {entries!r}",
        )
    return {_index(new, new_count, "new"): _old_index(old, old_count, names) for new, old in pairs}


def _old_index(value: object, count: int, names: Mapping[str, int]) -> int:
    if not isinstance(value, str):
        return _index(value, count, "old")
    if value not in names:
        known = f"it has {', '.join(list(names)[:5])}" if names else "it stores no class names"
        raise HeadSwapError("bad_argument", f"class_map names {value!r}, which is not a class of the model: {known}")
    return names[value]


def _index(value: object, count: int, which: str) -> int:
    index = as_count(value)
    if index is None or not 0 <= index < count:
        raise HeadSwapError(
            "bad_argument",
            f"{value!r} is not a valid {which} class index: there are {count} classes, from 0 to {count - 1}",
        )
    return index
