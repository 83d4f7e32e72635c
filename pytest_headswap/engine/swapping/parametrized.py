"""Set the value of a tensor that a layer computes from stored ones, as a newly built and parametrised layer would.

`torch.nn.utils.parametrize` stores originals in place of a weight, and the older `weight_norm`, `spectral_norm` and
`prune` compute the weight in a hook. The new value is made for the weight itself, and then stored through them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList, type_before_parametrizations

from pytest_headswap.engine.detection.describe import WEIGHT, ClassTensor
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.modules import get_registered_tensor, modules, owner_path
from pytest_headswap.engine.pytorch.weight_hooks import WeightHook, weight_hooks
from pytest_headswap.engine.swapping.buffers import NewTensor
from pytest_headswap.engine.swapping.transaction import Transaction

_NEAR_ZERO = 1e-3


@dataclass(frozen=True, eq=False)
class ComputedTensor:
    """A class-sized tensor that a layer computes from stored ones.

    Attributes:
        layer: the layer.
        name: attribute of the layer that is computed, such as `weight`.
        spec: the computed tensor, as if it were registered.
        old: its value before the swap.
        stored: names in the model of the class-sized tensors that it is computed from.
        source: the list of parametrizations, or the hook.
    """

    layer: nn.Module
    name: str
    spec: ClassTensor
    old: torch.Tensor
    stored: frozenset[str]
    source: ParametrizationList | WeightHook

    def store(self, value: torch.Tensor, changes: Transaction) -> list[tuple[nn.Module, str]]:
        """Store tensors from which the layer computes `value`, or the value that comes closest to it.

        Returns:
            The stored tensors that were replaced, as pairs of module and name.

        Raises:
            HeadSwapError: `unsupported_layer`, if a parametrization does not accept the value.
        """
        owner: nn.Module = self.layer
        replaced: list[tuple[nn.Module, str]] = []
        if isinstance(self.source, ParametrizationList):
            for module in self.source:
                for key, attribute in module.__dict__.items():
                    if isinstance(attribute, (tuple, list)) and tuple(attribute) == tuple(self.old.shape):
                        changes.set(module.__dict__, key, type(attribute)(value.shape))
            owner = self.source
            values, replaced = _inverted(self.source, value, changes)
        else:
            values = self.source.stored(value)
        new = {name.rpartition(".")[2] for name in self.stored}
        for key, tensor in values.items():
            registry = owner._parameters if key in owner._parameters else owner._buffers
            current = registry[key]
            assert current is not None, "all stored tensors exist before the swap"
            if key in new and current.shape == tensor.shape:
                current.copy_(tensor)
                continue
            made = tensor.detach().clone()
            changes.set(registry, key, nn.Parameter(made) if isinstance(current, nn.Parameter) else made)
            replaced.append((owner, key))
        return replaced

    def added_to(self, groups: Mapping[nn.Module, Sequence[NewTensor]]) -> list[NewTensor]:
        """Return the new parameters that belong to a parametrization itself."""
        modules = list(self.source.modules()) if isinstance(self.source, ParametrizationList) else []
        items = (item for module in modules for item in groups.get(module, ()) if module is not self.source)
        return [item for item in items if not item.spec.is_buffer and not item.new.is_meta]

    def make_neutral(self, item: NewTensor, wanted: torch.Tensor) -> None:
        """Fill a parameter that a parametrization adds, so that it leaves the wanted value as it is, if 0 or 1 does."""
        default = item.new.detach().clone()
        for value in (0, 1):
            item.new.fill_(value)
            if _is_close(_value(self.layer, self.name, self.source), wanted):
                return
        item.new.copy_(default)

    def mixes_rows(self, stored: Sequence[NewTensor]) -> bool:
        """Return whether rows of the computed tensor depend on the values of other rows of the stored ones."""
        before = [made.new.detach().clone() for made in stored]
        values = [_value(self.layer, self.name, self.source).clone()]
        with torch.no_grad():
            for made in stored:
                made.by_class()[0][:, 0] += 1
            values.append(_value(self.layer, self.name, self.source))
            for made, value in zip(stored, before, strict=True):
                made.new.copy_(value)
        one, other = (NewTensor(self.spec, self.name, value, value).by_class()[0][:, 1:] for value in values)
        return not torch.equal(one, other)

    def keep_rows(self, item: NewTensor, stored: Sequence[NewTensor], classes: Mapping[int, int]) -> None:
        """Copy the rows of old classes in the stored tensors, if only this gives the computed tensor its old rows.

        This is so for a parametrization that cannot be inverted, such as one that adds a tensor of the backbone.
        """
        if item.new.is_meta or item.spec.more or self._has_rows(item, classes):
            return
        before = [made.new.detach().clone() for made in stored]
        for made in stored:
            made.copy_rows(classes)
        if not self._has_rows(item, classes):
            for made, value in zip(stored, before, strict=True):
                made.new.copy_(value)
        else:
            item.new.copy_(_value(self.layer, self.name, self.source))

    def _has_rows(self, item: NewTensor, classes: Mapping[int, int]) -> bool:
        computed = replace(item, new=_value(self.layer, self.name, self.source))
        value, wanted = (made.by_class()[0][:, list(classes)] for made in (computed, item))
        return _is_close(value, wanted)

    def finish(self, wanted: torch.Tensor, init: str, keeps_rows: bool, changes: Transaction) -> list[str]:
        """Compare the computed value with the wanted one. Call this after the buffers are filled.

        Returns:
            Notes for the user, if values that the user chose are changed.

        Raises:
            HeadSwapError: `bad_argument` or `unsupported_layer`, if the layer cannot have the wanted value.
        """
        if wanted.is_meta:
            return []
        value = _value(self.layer, self.name, self.source)
        if isinstance(self.source, ParametrizationList):
            way = " and ".join(type(module).__name__ for module in self.source)
        else:
            way = type(self.source.hook).__name__
            changes.set(self.layer.__dict__, self.name, value)
        name = self.spec.names[0]
        if init == "zeros" and not bool(wanted.any()) and not self._can_be_zero(value):
            raise HeadSwapError(
                "bad_argument",
                f"init='zeros' is not possible: {name} is computed by {way}, which cannot make it 0. "
                "Use init='default'",
            )
        if bool(wanted.isfinite().all()) and not bool(value.isfinite().all()):
            raise HeadSwapError(
                "unsupported_layer",
                f"{name} is computed by {way}, which gives values that are not finite for the new head. Swap the head "
                "first, then parametrise it",
            )
        if (keeps_rows or init == "prior") and not _is_close(value, wanted):
            kept = "the rows that class_map keeps" if keeps_rows else "the values of init='prior'"
            return [f"{name} is computed by {way}, which changes {kept}: compare the outputs before training"]
        return []

    def _can_be_zero(self, value: torch.Tensor) -> bool:
        if bool((value != 0).any()):  # NaN is not 0 either
            return False
        if isinstance(self.source, WeightHook):
            return True
        # An orthogonal weight has a fixed length: a value near 0 is not kept near 0.
        scratch, near = copy.deepcopy(self.source), torch.full_like(value, _NEAR_ZERO)
        for key, original in _inverted(scratch, near, Transaction())[0].items():
            setattr(scratch, key, nn.Parameter(original) if key in scratch._parameters else original)
        return bool((scratch().abs() < 2 * _NEAR_ZERO).all())


def _inverted(
    source: ParametrizationList, value: torch.Tensor, changes: Transaction
) -> tuple[dict[str, torch.Tensor], list[tuple[nn.Module, str]]]:
    """Return the originals from which the parametrizations compute `value`, or what comes closest to it.

    Also return the buffers that were replaced, such as the base that an orthogonal weight is relative to.
    """
    originals: torch.Tensor | Sequence[torch.Tensor] = value
    replaced: list[tuple[nn.Module, str]] = []
    for module in reversed(list(source)):
        before = {inner: dict(inner._buffers) for inner in modules(module)}
        copies = {
            inner: {key: None if buffer is None else buffer.clone() for key, buffer in buffers.items()}
            for inner, buffers in before.items()
        }
        for inner, buffers in copies.items():
            inner._buffers.update(buffers)
        try:
            with suppress(NotImplementedError):  # torch takes the identity then
                if hasattr(module, "right_inverse"):
                    originals = module.right_inverse(originals)  # type: ignore[operator]
        except Exception as error:
            raise HeadSwapError(
                "unsupported_layer",
                f"the parametrization {type(module).__name__} does not accept a weight of shape {tuple(value.shape)}: "
                f"{error}. Swap the head first, then parametrise it",
            ) from error
        finally:
            after = {inner: dict(inner._buffers) for inner in before}
            for inner, buffers in before.items():
                inner._buffers.update(buffers)
        for inner, buffers in after.items():
            for key, buffer in buffers.items():
                if buffer is not None and not _is_unchanged(buffer, copies[inner][key], before[inner][key]):
                    changes.set(inner._buffers, key, buffer)
                    replaced.append((inner, key))
    if isinstance(originals, torch.Tensor):
        return {"original": originals}, replaced
    return {f"original{index}": original for index, original in enumerate(originals)}, replaced


def _is_unchanged(buffer: torch.Tensor, copied: torch.Tensor | None, before: torch.Tensor | None) -> bool:
    return buffer is copied and before is not None and (buffer.is_meta or torch.equal(buffer, before))


def _is_close(value: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(value, wanted.to(value.dtype), rtol=0.01, atol=1e-4)


def computed_tensors(model: nn.Module, tensors: Iterable[ClassTensor]) -> list[ComputedTensor]:
    """Return the tensors that layers compute from class-sized ones. Call this before the swap changes them."""
    by_source: dict[tuple[str, str], tuple[ParametrizationList | WeightHook, list[ClassTensor]]] = {}
    weights: set[tuple[str, str]] = set()
    for spec in tensors:
        full = next((name for name in spec.names if "parametrizations." in name), spec.names[0])  # it may have aliases
        path, _, key = full.rpartition(".")
        owner = model.get_submodule(path)
        before, mark, rest = full.rpartition("parametrizations.")
        if mark:
            owning = model.get_submodule(before + mark + rest.partition(".")[0])
            found = (owner_path(full), rest.partition(".")[0])
            if spec.part == WEIGHT:
                weights.add(found)  # also if it belongs to a parametrization, such as an added low-rank matrix
            if isinstance(owning, ParametrizationList) and (spec.part == WEIGHT if spec.is_buffer else owner is owning):
                by_source.setdefault(found, (owning, []))[1].append(spec)
        for hook in weight_hooks(owner):
            if key in hook.keys:
                by_source.setdefault((spec.module, hook.name), (hook, []))[1].append(spec)
    computed = []
    for (path, name), (source, specs) in by_source.items():
        main = max(specs, key=lambda item: (item.part == WEIGHT, get_registered_tensor(model, item.names[0]).dim()))
        stored, layer = get_registered_tensor(model, main.names[0]), model.get_submodule(path)
        old = stored.detach()
        with suppress(Exception):  # such as an operation without a kernel for the meta device
            old = _value(layer, name, source)
        size = stored.shape[main.dim]
        dims = [main.dim] if old.shape == stored.shape else [d for d, length in enumerate(old.shape) if length == size]
        if len(dims) == 1:
            names, part = (f"{path}.{name}".lstrip("."),), WEIGHT if (path, name) in weights else main.part
            made = replace(main, names=names, dim=dims[0], is_buffer=False, part=part)
            computed.append(
                ComputedTensor(layer, name, made, old, frozenset(name for item in specs for name in item.names), source)
            )
    return computed


def _value(layer: nn.Module, name: str, source: ParametrizationList | WeightHook) -> torch.Tensor:
    """Compute the tensor without changing the layer."""
    with torch.no_grad():
        if isinstance(source, ParametrizationList):
            return copy.deepcopy(source).eval()().detach()  # type: ignore[no-any-return]
        bare = plain_layer(layer, {})
        bare.training = False  # The hook of spectral norm writes to buffers in train mode.
        source.hook(bare, ())
        return getattr(bare, name).detach()  # type: ignore[no-any-return]


def plain_layer(layer: nn.Module, values: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a shallow copy of the layer in which `values` are plain parameters. It shares all other state."""
    kind = type_before_parametrizations(layer)
    bare: nn.Module = object.__new__(kind)
    bare.__dict__.update(layer.__dict__)
    if values:
        raw = {key for hook in weight_hooks(layer) if hook.name in values for key in hook.keys}
        bare.__dict__["_parameters"] = {k: v for k, v in layer._parameters.items() if k not in raw} | dict(values)
        bare.__dict__["_modules"] = {k: v for k, v in layer._modules.items() if k != "parametrizations"}
        for name in values:
            bare.__dict__.pop(name, None)
    return bare
