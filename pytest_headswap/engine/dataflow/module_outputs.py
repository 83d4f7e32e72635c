"""Record what each module of a model returns, to tell which submodule computes the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.meta_cache import Execute
from pytest_headswap.engine.abstract.run import abstract_run
from pytest_headswap.engine.abstract.stand_ins import StandIns
from pytest_headswap.engine.dataflow.graph import Graph, Value
from pytest_headswap.engine.dataflow.recorder import RecordingSession
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.outputs import flatten_outputs

ModuleOutputs = dict[str, dict[str, Value]]
"""Floating-point outputs of each module by label, for its path, outer modules first."""


def record_module_outputs(model: nn.Module, inputs: Inputs, tensor_kinds: Sequence[str]) -> tuple[Graph, ModuleOutputs]:
    """Run the model in eval mode as `record` does, and return its data flow and the outputs of its modules.

    A module that runs several times has the outputs of its last run.
    """
    session = _Session(inputs, training=False)
    with torch.no_grad():
        run = abstract_run(model, inputs, tensor_kinds=tensor_kinds, recorder=session.context)
    paths = dict.fromkeys(path for path, _ in model.named_modules())
    return session.build_graph(run), {path: session.outputs[path] for path in paths if path in session.outputs}


class _Session(RecordingSession):
    def __init__(self, inputs: Inputs, training: bool) -> None:
        super().__init__(inputs, training)
        self.outputs: ModuleOutputs = {}

    @contextmanager
    def context(self, stand_ins: StandIns, named: Sequence[tuple[str, nn.Module]], execute: Execute) -> Iterator[None]:
        self.outputs = {}
        with super().context(stand_ins, named, execute):
            for path, module in {id(module): (path, module) for path, module in reversed(named)}.values():
                if path:
                    module.__dict__["forward"] = self._recorded(path, module.forward, self.recorder.value_of)
            yield

    def _recorded(
        self, path: str, forward: Callable[..., Any], value_of: Callable[[torch.Tensor], Value]
    ) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            try:
                tensors = flatten_outputs(output)
            except HeadSwapError:  # an object that cannot be searched
                return output
            floating = {label: value_of(tensor) for label, tensor in tensors if tensor.is_floating_point()}
            if floating:
                self.outputs[path] = floating
            return output

        return wrapped
