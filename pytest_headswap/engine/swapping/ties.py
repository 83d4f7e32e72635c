"""Tell the user which tensors of a head were tied, and check that the backbone does not use the new ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS
from pytest_headswap.engine.dataflow.dim_tracer import Tracer
from pytest_headswap.engine.dataflow.graph import ancestors
from pytest_headswap.engine.dataflow.recorder import record
from pytest_headswap.engine.detection.describe import DetectedHead
from pytest_headswap.engine.detection.tied_weights import shared_error
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.modules import get_registered_tensor, is_registered


def tie_notes(model: nn.Module, selected: Iterable[DetectedHead], *, option_is_off: bool) -> Iterator[str]:
    """Yield a note for each tensor of a head that was tied. Call this after the swap.

    `option_is_off` tells that the model's option to tie weights was switched off.
    """
    again = (
        ". Do not tie them again: tie_weights(), or loading with a setting such as tie_word_embeddings, would undo the "
        "swap"
    )
    for item in selected:
        for name, other in item.tied:
            if is_registered(model, name) and get_registered_tensor(model, name) is not _tensor(model, other):
                yield f"{name} was tied to {other} and is now a separate tensor{'' if option_is_off else again}"
        for name, other in item.idle:
            if is_registered(model, name) and get_registered_tensor(model, name) is _tensor(model, other):
                yield f"{other} is tied to {name}, so it was replaced as well, although its module does not run here"


def _tensor(model: nn.Module, name: str) -> object:
    return get_registered_tensor(model, name) if is_registered(model, name) else None


def check_untied(
    model: nn.Module, inputs: Inputs, tensor_kinds: dict[bool, str], selected: Iterable[DetectedHead]
) -> None:
    """Check that only the head uses the tensors that were tied. Call this after the swap.

    Raises:
        HeadSwapError: `unsupported_layer`, if a forward method of the backbone reads the tensor from the head.
    """
    untied = [(item.module_path, name) for item in selected for name, _ in item.tied]
    for training, tensor_kind in tensor_kinds.items() if untied else ():
        kinds = TENSOR_KINDS[TENSOR_KINDS.index(tensor_kind) :]
        graph = record(model, inputs, training=training, tensor_kinds=kinds)
        try:
            tracer = Tracer(graph)
            for path, name in untied:
                uses = tracer.uses_of({name})
                features = [value for node in uses if node.module == path for value in node.inputs if value.from_input]
                before = ancestors(features)
                reader = next((node for node in uses if node in before and node.module != path), None)
                if reader is not None:
                    raise shared_error(name, reader)
        finally:
            graph.clear()
