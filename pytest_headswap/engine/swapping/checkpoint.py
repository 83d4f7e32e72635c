"""Load a checkpoint of another class count into a swapped model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pytest_headswap._text import join_first, pluralize
from pytest_headswap.engine.detection.describe import OTHER, ClassTensor, DetectedHead
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.modules import get_registered_tensor, is_registered, owner_path
from pytest_headswap.engine.swapping.buffers import NewTensor
from pytest_headswap.engine.swapping.checkpoint_names import find_entry
from pytest_headswap.engine.swapping.class_map import ClassMap, resolve_class_map
from pytest_headswap.engine.swapping.parametrized import computed_tensors
from pytest_headswap.engine.swapping.several_heads import check_paths, paths_of_heads
from pytest_headswap.engine.swapping.swap import Swap
from pytest_headswap.head import Head

_MAX_NAMED = 4


@dataclass(frozen=True, repr=False)
class LoadedCheckpoint:
    """What `load_checkpoint` loaded, and what it did not.

    Attributes:
        loaded: names of the tensors of the model that have the values of the checkpoint, without those of the heads.
        classes: for each head, by path: the new classes that have values of the checkpoint, and their indices there.
        new_classes: for each head, by path: the new classes that keep the values they had before.
        missing: names of the tensors of the model that the checkpoint does not have.
        unexpected: names in the checkpoint that the model does not have.
        mismatched: names of tensors with another shape in the checkpoint: that shape and the one in the model.
        notes: why the rows of a head could not be carried over.
    """

    loaded: tuple[str, ...]
    classes: Mapping[str, Mapping[int, int]]
    new_classes: Mapping[str, tuple[int, ...]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        lines = [f"loaded: {pluralize(len(self.loaded), 'tensor')}"]
        for path, kept in self.classes.items():
            new = self.new_classes[path]
            lines.append(
                f"{path or 'the model itself'}: {len(kept)} of {pluralize(len(kept) + len(new), 'class', 'classes')}"
            )
        shapes = [f"{name} {old} instead of {new}" for name, (old, new) in self.mismatched.items()]
        for title, names in (("missing", self.missing), ("unexpected", self.unexpected), ("other shape", shapes)):
            lines += [f"{title}: {join_first(names, _MAX_NAMED)}"] if names else []
        return f"LoadedCheckpoint({'; '.join([*lines, *self.notes])})"


@dataclass
class _Load:
    """The copies to make, and what was found out about the heads."""

    copies: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    rows: list[tuple[NewTensor, dict[int, int]]] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    classes: dict[str, dict[int, int]] = field(default_factory=dict)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load_checkpoint(
    swap: Swap,
    state_dict: Mapping[str, Any],
    class_map: ClassMap | Mapping[str, ClassMap] | None = None,
    *,
    class_names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
) -> LoadedCheckpoint:
    """Load a checkpoint of any class count into a swapped model, in place.

    All tensors of the backbone with the same name and shape are loaded. If the checkpoint has as many classes as a new
    head, and there is no `class_map`, the head is loaded as well. Otherwise the head keeps its values, but for the
    classes in `class_map`. Frozen tensors are loaded too.

    Args:
        swap: the result of `swap_head`.
        state_dict: the checkpoint: a mapping of names to tensors, or one that contains it in an entry such as `model`
            or `state_dict`. A prefix of all names, such as `module.`, is removed.
        class_map: the class of the checkpoint that each new class takes its values from, as for `swap_head`. If
            `num_classes` of the swap is a mapping, a mapping of the same paths.
        class_names: the names of the classes of the checkpoint, if `class_map` contains names. None: those that the
            model had before the swap. A mapping of paths like `class_map`.

    Returns:
        What was loaded, and what was not.

    Raises:
        HeadSwapError: nothing was loaded. `bad_argument`: the checkpoint does not belong to the model, or an index or
            a name is not a class of it.
    """
    if not isinstance(swap, Swap):
        raise HeadSwapError("bad_argument", f"pass the result of swap_head, not {type(swap).__name__}")
    plan, model = swap._plan, swap._plan.model
    targets = model.state_dict(keep_vars=True)
    tensors = {name: value for name, value in targets.items() if isinstance(value, torch.Tensor)}
    entry = find_entry(state_dict, tensors)
    given = entry.tensors
    _check_real(model, given)
    load = _Load()
    aliases: dict[int, list[str]] = {}
    for name, value in tensors.items():
        aliases.setdefault(id(value), []).append(name)
    arguments = _arguments(swap, class_map, class_names) if swap.heads else []
    for head, (item, head_map, names) in zip(swap.heads, arguments, strict=True):
        _plan_head(load, model, item, head, plan.prefix, given, head_map, names)
    loaded: list[str] = []
    missing: list[str] = []
    for same in aliases.values():
        name = next((name for name in same if name in given), "")
        if not load.done.isdisjoint(same):
            continue
        if not name:
            missing.append(same[0])
        elif given[name].shape != tensors[name].shape:
            load.mismatched[name] = tuple(given[name].shape), tuple(tensors[name].shape)
        else:
            load.copies.append((tensors[name], given[name]))
            loaded.append(name)
    if not loaded and not any(load.classes.values()):
        raise HeadSwapError("bad_argument", "no tensor of the checkpoint has the shape that it has in the model")
    with torch.no_grad():
        for target, value in load.copies:
            target.copy_(value)
        for made, classes in load.rows:
            made.copy_rows(classes)
    counts = {head.path: head.num_classes for head in swap.heads}
    return LoadedCheckpoint(
        tuple(loaded),
        load.classes,
        {path: tuple(i for i in range(counts[path]) if i not in kept) for path, kept in load.classes.items()},
        tuple(missing),
        tuple(name for name in given if name not in tensors and name not in load.done),
        load.mismatched,
        tuple(load.notes),
    )


def _check_real(model: nn.Module, given: Mapping[str, torch.Tensor]) -> None:
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise HeadSwapError("bad_argument", "the model is on the meta device: give it memory first, with to_empty()")
    meta = next((name for name, tensor in given.items() if tensor.is_meta), None)
    if meta is not None:
        raise HeadSwapError("bad_argument", f"{meta} of the checkpoint is on the meta device, so it has no values")


def _arguments(swap: Swap, class_map: Any, class_names: Any) -> list[tuple[DetectedHead, Any, Any]]:
    """Return each head with its class map, and the names of the classes of the checkpoint."""
    heads, counts = swap._plan.selected, swap.num_classes
    by_path = {"class_map": class_map, "class_names": class_names}
    if isinstance(counts, dict):
        for name, value in by_path.items():
            check_paths(name, value, counts)
        paths = paths_of_heads(swap._plan, list(counts))
        maps, names = ([(value or {}).get(path) for path in paths] for value in by_path.values())
    else:
        maps, names = ([value] * len(heads) for value in by_path.values())
    old = [swap._old_names.get(item.name, {}) for item in heads]
    names = [own if given is None else given for given, own in zip(names, old, strict=True)]
    return list(zip(heads, maps, names, strict=True))


def _plan_head(
    load: _Load,
    model: nn.Module,
    item: DetectedHead,
    head: Head,
    prefix: str,
    given: Mapping[str, torch.Tensor],
    class_map: Any,
    names: Any,
) -> None:
    """Plan which values of one head to copy."""
    load.classes[head.path] = {}
    made = [made for spec in _specs(item, head, prefix) if (made := _pair(model, spec, head.num_classes, given))]
    layers = _layers(item, model, given)
    counts = {pair.by_class()[1].shape[1] for pair in made} | ({len(layers[1])} if layers[1] else set())
    if len(counts) != 1:
        return  # none, or of several heads: reported as missing, or by their shapes
    old_count = counts.pop()
    is_same = class_map is None and old_count == head.num_classes
    classes = resolve_class_map(_indices(names, old_count), class_map, head.num_classes, old_count)
    if is_same:
        classes = {index: index for index in range(old_count)}
    is_complete = old_count == head.num_classes and all(classes.get(index) == index for index in range(old_count))
    specs = [pair.spec for pair in made]
    for tensor in computed_tensors(model, specs) if not is_complete else ():
        if tensor.mixes_rows([pair for pair in made if pair.spec.names[0] in tensor.stored]):
            path = owner_path(tensor.spec.names[0])
            load.done.update(name for name in (*given, *model.state_dict()) if name.startswith(f"{path}."))
            load.notes.append(
                f"{path} computes its {tensor.name} from all classes together, so classes of another head cannot be "
                "carried over: it keeps its values"
            )
            return
    load.classes[head.path] = classes
    load.rows += [(pair, classes) for pair in made]
    load.done.update(name for pair in made for name in pair.spec.names)
    for new, old in classes.items():
        for rest, target in layers[0][new].items() if layers[1] else ():
            load.copies.append((target, layers[1][old][rest]))
    if layers[1]:
        load.done.update(name for name in (*given, *model.state_dict()) if name.startswith(f"{item.label_list}."))


def _specs(item: DetectedHead, head: Head, prefix: str) -> list[ClassTensor]:
    """Return the class-sized tensors of the new head."""
    names = [name.removeprefix(prefix) for name in head.tensors] if item.slot is not None else []
    return [ClassTensor((name,), 0, 1, 1, is_buffer=False, part=OTHER) for name in names] or list(item.tensors)


def _pair(model: nn.Module, spec: ClassTensor, count: int, given: Mapping[str, torch.Tensor]) -> NewTensor | None:
    """Return a tensor of the new head with that of the checkpoint, if all their other dimensions are the same."""
    found = next((name for name in spec.names if name in given), None)
    if found is None or not is_registered(model, spec.names[0]):
        return None
    new, old = get_registered_tensor(model, spec.names[0]), given[found]
    dims = ((spec.dim, spec.outer, spec.inner), *spec.more)
    if old.dim() != new.dim() or any(new.shape[dim] != outer * count * inner for dim, outer, inner in dims):
        return None
    counts = {old.shape[dim] / (outer * inner) for dim, outer, inner in dims}
    others = [dim for dim in range(new.dim()) if dim not in {dim for dim, _, _ in dims}]
    if len(counts) > 1 or not counts.pop().is_integer() or any(new.shape[dim] != old.shape[dim] for dim in others):
        return None
    return NewTensor(spec, spec.names[0].rpartition(".")[2], old.to(new.device, new.dtype), new)


Layers = list[dict[str, torch.Tensor]]


def _layers(item: DetectedHead, model: nn.Module, given: Mapping[str, torch.Tensor]) -> tuple[Layers, Layers]:
    """Return the tensors of each layer of a list with one layer for each label: of the model, and the checkpoint."""
    found: list[Layers] = []
    for tensors in (model.state_dict(keep_vars=True), given):
        layers: Layers = []
        while item.label_list is not None:
            start = f"{item.label_list}.{len(layers)}."
            layer = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
            if not layer:
                break
            layers.append(layer)
        found.append(layers)
    own, theirs = found
    shapes = [{rest: value.shape for rest, value in layer.items()} for layer in (*own, *theirs)]
    return (own, theirs) if all(shape == shapes[0] for shape in shapes) else (own, [])


def _indices(names: Any, count: int) -> Mapping[str, int]:
    """Return the index of each class name of the checkpoint."""
    if isinstance(names, Mapping):  # of the old head, which may have had another class count
        return names if len(names) == count else {}
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise HeadSwapError("bad_argument", f"class_names must be a list with the names of the classes, not {names!r}")
    if len(names) != count:
        raise HeadSwapError("bad_argument", f"class_names has {len(names)} names, and the checkpoint {count} classes")
    return {name: index for index, name in enumerate(names)}
