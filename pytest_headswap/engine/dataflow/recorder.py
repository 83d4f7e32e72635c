"""Record the data flow of a forward pass below autograd, so that frozen and `no_grad` models are recorded alike."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.meta_cache import Execute
from pytest_headswap.engine.abstract.released import check_released
from pytest_headswap.engine.abstract.run import AbstractRun, abstract_run, meta_run_with_device_checks
from pytest_headswap.engine.abstract.script_modules import is_script
from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS, StandIns
from pytest_headswap.engine.dataflow.choices import find_choices
from pytest_headswap.engine.dataflow.graph import Graph, IdentityCall
from pytest_headswap.engine.dataflow.recording_mode import Recorder
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.outputs import flatten_outputs


def record(
    model: nn.Module, inputs: Inputs, *, training: bool = False, tensor_kinds: Sequence[str] = TENSOR_KINDS
) -> Graph:
    """Run the model abstractly and return its data flow.

    Raises:
        HeadSwapError: `forward_failed` or `leaked_tensor`.
    """
    session = RecordingSession(inputs, training)
    with torch.no_grad():
        run = abstract_run(model, inputs, training=training, tensor_kinds=tensor_kinds, recorder=session.context)
    graph = session.build_graph(run)
    references = session.tensor_references()
    del session, run
    check_released(references, type(model).__name__)
    return graph


def record_with_device_checks(model: nn.Module, inputs: Inputs, *, training: bool = False) -> tuple[AbstractRun, Graph]:
    """Run the model on the meta device with device checks, in the current grad mode, and record its data flow.

    Exceptions of the model are raised unchanged.
    """
    session = RecordingSession(inputs, training)
    run = meta_run_with_device_checks(model, inputs, training=training, recorder=session.context)
    return run, session.build_graph(run)


class RecordingSession:
    """Record each attempt to run a model with a new recorder, because a failed attempt leaves partial records."""

    def __init__(self, inputs: Inputs, training: bool) -> None:
        self._inputs = inputs
        self._training = training
        self.recorder: Recorder

    @contextmanager
    def context(self, stand_ins: StandIns, named: Sequence[tuple[str, nn.Module]], execute: Execute) -> Iterator[None]:
        """Return a context in which the model runs and is recorded."""
        self.recorder = recorder = Recorder(Graph(self._training), execute)
        tensors = map(stand_ins.stand_in_for, self._inputs.tensors())
        names = self._inputs.tensor_names(named[0][1].forward)
        recorder.name_sources(named, list(zip(names, tensors, strict=False)))  # a shared container is searched once
        _track_leaf_modules(named, recorder)
        with recorder:
            yield

    def tensor_references(self) -> list[weakref.ref[torch.Tensor]]:
        """Return weak references to the tensors that the last run computed."""
        return self.recorder.tensor_references()

    def build_graph(self, run: AbstractRun) -> Graph:
        """Return the data flow of the last run, the one that succeeded."""
        recorder = self.recorder
        graph = recorder.graph
        graph.tensor_kind = run.tensor_kind
        graph.mutated = recorder.mutated_sources()
        for label, tensor in flatten_outputs(run.outputs):
            value = recorder.value_of(tensor)
            if tensor.is_floating_point():
                graph.outputs[label] = value
            else:
                graph.other_outputs[label] = value
            graph.choices += find_choices(label, value, not tensor.is_floating_point())
        return graph


def _track_leaf_modules(named: Sequence[tuple[str, nn.Module]], recorder: Recorder) -> None:
    """Tell the recorder which leaf module is running, and record each `nn.Identity`.

    This gives each leaf module a `forward` of its own, until the abstract run ends and the model gets its attributes
    back. Hooks would do the same, but torch then takes a slower call path that costs a tenth of the run.
    """
    executed = itertools.count(1)
    tracked: set[int] = set()
    for path, module in named:
        is_leaf = is_script(module) or all(child is None for child in module._modules.values())
        if id(module) not in tracked and is_leaf:
            tracked.add(id(module))
            forward = _tracked_identity if type(module) is nn.Identity else _tracked_forward
            module.__dict__["forward"] = forward(path, module.forward, recorder, executed)


def _tracked_forward(
    path: str, forward: Callable[..., Any], recorder: Recorder, executed: Iterator[int]
) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        recorder.module = path
        try:
            output = forward(*args, **kwargs)
        finally:
            recorder.module = ""
        next(executed)
        return output

    return wrapped


def _tracked_identity(
    path: str, forward: Callable[..., Any], recorder: Recorder, executed: Iterator[int]
) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        count = next(executed)
        if isinstance(output, torch.Tensor):
            recorder.graph.identities.append(IdentityCall(path, recorder.value_of(output), count))
        return output

    return wrapped
