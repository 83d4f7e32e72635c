"""Run a model without touching it, with stand-ins for all its tensors: on the meta device where that does.

For the length of a run every module's `__dict__` is replaced by one whose parameters, buffers and
other tensors are stand-ins and whose containers are copies. What forward writes lands there, and
the originals come back afterwards, whatever happened.
"""

from __future__ import annotations

import collections
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.device_mode import DeviceWatch
from pytest_headswap.engine.abstract.meta_cache import Execute, run_as_torch
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs, as_inputs
from pytest_headswap.engine.pytorch.internals import (
    as_parameter,
    fake_tensor_mode,
    initialised_cuda_devices,
    plain_kernels,
    quiet_fake_tensors,
)
from pytest_headswap.engine.pytorch.modules import (
    buffers_of,
    each_once,
    modules,
    named_modules,
    parameters_of,
    set_mode,
)

_PLAIN = frozenset((bool, int, float, str, type(None), torch.Size, torch.dtype, torch.device))
_CONTAINERS = (list, dict, set, collections.OrderedDict, collections.deque, collections.defaultdict)
# The registries of nn.Module are never shared between modules. Its children are handled one by one.
REGISTRIES = frozenset(key for key, value in nn.Module().__dict__.items() if isinstance(value, (dict, set)))
_REGISTRY_TYPES = frozenset((dict, set, collections.OrderedDict))
_PLAIN_TENSORS = frozenset((torch.Tensor, nn.Parameter))

META, FAKE, REAL = "meta", "fake", "real"
WAYS = (META, FAKE, REAL)
"""How a model can be run, the cheapest first. `meta`: shapes alone. `fake`: shapes that know their device, and
constants that know their value, for models that compute with them. `real`: copies of all tensors, real arithmetic."""


@dataclass(frozen=True)
class AbstractRun:
    """What came out of an abstract run.

    `outputs` has the structure that `forward` returned, with stand-in tensors in it. `parameters` maps
    full names to the stand-ins that were used; tied ones appear under each name.
    `held` are all stand-ins for tensors of the model, those included that are neither parameter nor
    buffer. `way` is how the model was run: `meta`, `fake` or `real`. `met` says where tensors of the CPU
    met those of the model; None where nobody watched.
    """

    outputs: Any
    parameters: Mapping[str, torch.Tensor]
    held: tuple[torch.Tensor, ...]
    way: str
    met: tuple[str, ...] | None = None


Around = Callable[["StandIns"], AbstractContextManager[None]]
Recording = Callable[["StandIns", Sequence[tuple[str, nn.Module]], Execute], AbstractContextManager[None]]


def abstract_run(
    model: nn.Module,
    example_inputs: Any,
    *,
    training: bool = False,
    ways: Sequence[str] = WAYS,
    around: Around | None = None,
    recording: Recording | None = None,
) -> AbstractRun:
    """Run `model` on stand-ins in train or eval mode; the model, the inputs and all RNG stay as they are.

    Stand-ins keep shape, stride, dtype and `requires_grad`, so under `torch.enable_grad()` the outputs
    have the autograd graph that a real run would have. The ways are tried in their order until one
    succeeds. `around` is called with the stand-ins and returns a context manager that is active around
    forward; `recording` also with the modules under all their names and with what runs an operation, and returns a
    dispatch mode that runs them that way.

    Raises:
        HeadSwapError: `forward_failed`, with the model's own exception as `__cause__`.
    """
    inputs = as_inputs(example_inputs)
    failed: Exception | None = None
    for way in ways:
        if way == REAL and any(tensor.is_meta for tensor in (*model.parameters(), *inputs.tensors())):
            continue  # there are no values
        try:
            return _run(model, inputs, training, way, around, recording)
        except HeadSwapError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the next way may do
            failed = error
    assert failed is not None, "the first way is always tried"
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs.tensors())
    remedy = "Pass example_inputs that the model accepts"
    if any(parameter.is_meta for parameter in model.parameters()):
        remedy += ", or build the model with memory: on the meta device it has no values to compute with"
    raise HeadSwapError(
        "forward_failed",
        f"{type(model).__name__}.forward raised {type(failed).__name__} in {'train' if training else 'eval'} mode on "
        f"inputs of shape {shapes}: {_first_line(failed)}. {remedy}",
    ) from failed


def watched_run(model: nn.Module, inputs: Inputs, *, training: bool, recording: Recording | None = None) -> AbstractRun:
    """A run on the meta device that notes where tensors of the CPU meet those of the model; raises what that raises."""
    return _run(model, inputs, training, META, None, recording, watched=True)


def _run(
    model: nn.Module,
    inputs: Inputs,
    training: bool,
    way: str,
    around: Around | None,
    recording: Recording | None,
    *,
    watched: bool = False,
) -> AbstractRun:
    with ExitStack() as stack:
        fake = fake_tensor_mode() if way == FAKE else None
        device_of_model = next((p.device for p in model.parameters() if not p.is_meta), None)
        stand_ins = StandIns(way, fake, device_of_model)
        named = named_modules(model, every_name=True)
        inside = each_once(named)
        if watched:
            registered = (item for items in (parameters_of(named), buffers_of(named)) for _, item in items)
            stand_ins = _OnDevice([*registered, *inputs.tensors()])
        stack.enter_context(preserved(model, stand_ins, inside))
        held = stand_ins.tensors()
        set_mode(model, inside, training)
        given = inputs.map_tensors(stand_ins.of)
        stack.enter_context(plain_kernels())
        if fake is not None:
            stack.enter_context(quiet_fake_tensors())
            stack.enter_context(fake)
        if around is not None:
            stack.enter_context(around(stand_ins))
        device = DeviceWatch(lets_go=watched) if way == META else None
        if recording is not None:
            execute = device.run if device is not None else run_as_torch
            stack.enter_context(recording(stand_ins, named, execute))
        elif device is not None:
            stack.enter_context(device)
        outputs = model(*given.args, **(given.kwargs or {}))
        met = tuple(device.met) if device is not None and watched else None
        return AbstractRun(outputs, dict(parameters_of(named)), held, way, met)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message"


class StandIns:
    """Other tensors in the place of a model's: one for each tensor object, so what is shared stays shared."""

    def __init__(self, way: str = META, fake: Any = None, device: torch.device | None = None) -> None:
        self._way = way
        self._fake = fake
        self._device = device or torch.device("cpu")
        self._made: dict[int, Any] = {}
        self._kept: list[Any] = []  # ids stay valid only while the originals live

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The stand-in of a parameter, buffer or plain tensor."""
        made = self._made.get(id(tensor))
        if made is None:
            kind = type(tensor)
            if kind not in _PLAIN_TENSORS and torch.nn.parameter.is_lazy(tensor):
                raise HeadSwapError(
                    "unsupported_model",
                    "the model has uninitialised lazy parameters: run it once on a real batch before the swap",
                )
            bare = self._bare(tensor)
            if kind is nn.Parameter or isinstance(tensor, nn.Parameter):
                made = as_parameter(bare, tensor.requires_grad)
            else:
                made = bare.requires_grad_() if tensor.requires_grad and tensor.is_leaf else bare
            self._remember(tensor, made)
        stand_in: torch.Tensor = made
        return stand_in

    def _bare(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._way == META and tensor.is_meta and type(tensor) in _PLAIN_TENSORS:
            return tensor.data  # without values there is nothing in it that could be written to
        if self._way == META and tensor.layout is torch.strided and not tensor.is_quantized:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        if self._way == META:
            return torch.empty_like(tensor, device="meta", requires_grad=False)
        if self._way == FAKE and tensor.is_meta:  # fake tensors beside those of the model, since meta did not do
            with self._fake:
                return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self._device)
        if self._way == FAKE:
            made: torch.Tensor = self._fake.from_tensor(tensor.detach())
            return made
        return tensor.detach().clone()

    def copy(self, value: Any) -> Any:
        """A copy of an attribute: tensors become stand-ins, builtin containers are copied, the rest is kept."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if isinstance(value, torch.Tensor):
            return self.of(value)
        if kind is tuple:
            items = tuple(self.copy(item) for item in value)
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        if kind not in _CONTAINERS:
            return value
        made = self._made.get(id(value))
        if made is None:
            made = value.copy()
            self._remember(value, made)  # before its items: containers may hold themselves
            if isinstance(made, dict):
                for key, item in made.items():
                    made[key] = self.copy(item)
            elif not isinstance(made, set):
                for index, item in enumerate(made):
                    made[index] = self.copy(item)
        return made

    def registry(self, registry: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
        """A copy of the parameters or buffers of one module."""
        made = registry.copy()
        for key, value in registry.items():
            if value is not None:
                made[key] = self.of(value)
        return made

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All stand-ins that were made so far."""
        return tuple(made for made in self._made.values() if isinstance(made, torch.Tensor))

    def _remember(self, original: Any, made: Any) -> None:
        self._made[id(original)] = made
        self._kept.append(original)


class _OnDevice(StandIns):
    """Meta tensors for what is on the device; the rest is on the CPU, as real as it was."""

    def __init__(self, on_device: list[torch.Tensor]) -> None:
        super().__init__()
        self._on_device = {id(tensor) for tensor in on_device}

    def _bare(self, tensor: torch.Tensor) -> torch.Tensor:
        return super()._bare(tensor) if id(tensor) in self._on_device else tensor.detach().clone()


@contextmanager
def preserved(model: nn.Module, stand_ins: StandIns, inside: Sequence[nn.Module] | None = None) -> Iterator[StandIns]:
    """Give every module of `model` stand-ins for the length of the block, and all of its own state back after it.

    `inside` are its modules, for those who have them already.
    RNG states of Python, NumPy and torch, the default dtype, grad mode and thread-local modes come back too.
    """
    inside = modules(model) if inside is None else inside
    originals = [module.__dict__.copy() for module in inside]
    unfilled: list[Any] = []  # torch gives ten to each module, and a copy of each would take its time
    with preserved_globals():
        try:
            for module, state in zip(inside, originals, strict=True):
                current = module.__dict__
                for key, value in state.items():
                    kind = type(value)
                    if kind in _PLAIN or (kind is tuple and _PLAIN.issuperset(map(type, value))):
                        continue
                    if not (kind in _REGISTRY_TYPES and key in REGISTRIES):
                        current[key] = stand_ins.copy(value)
                    elif not value:
                        unfilled.append(value)
                    elif key == "_parameters" or key == "_buffers":
                        current[key] = stand_ins.registry(value)
                    else:
                        current[key] = value.copy()
            yield stand_ins
        finally:
            for module, state in zip(inside, originals, strict=True):
                module.__dict__.clear()
                module.__dict__.update(state)
            for registry in unfilled:
                if registry:
                    registry.clear()


@contextmanager
def preserved_globals() -> Iterator[None]:
    """Give RNG states of Python, NumPy and torch, the default dtype and grad mode back after the block."""
    python_state = random.getstate()
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        with torch.random.fork_rng(initialised_cuda_devices()):
            yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
