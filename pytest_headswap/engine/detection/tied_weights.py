"""Distinguish tensors that only heads use from those that the backbone uses too, such as tied embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pytest_headswap.engine.dataflow.dim_tracer import Tracer
from pytest_headswap.engine.dataflow.graph import Node, Value, ancestors
from pytest_headswap.engine.detection.candidates import Candidate
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.modules import owner_and_key, owner_path


class TiedWeights:
    """The other uses and names of the tensors of heads.

    Attributes:
        untied: maps each tensor of a head to the tensor of the backbone that it is tied to. The two can be separated.
    """

    def __init__(self, model: nn.Module, candidates: Sequence[Candidate], tracers: Sequence[Tracer]) -> None:
        self._model = model
        self._tracers = tracers
        self._path_nodes: set[Node] = {node for candidate in candidates for node in candidate.trace.nodes}
        self.untied: dict[str, str] = {}
        self._idle: dict[str, tuple[str, str]] = {}
        self._used: set[str] = set()

    def idle(self) -> dict[str, tuple[str, str]]:
        """Return, for tensors of a head, their name in the head and another one in a module that does not run."""
        return {name: (own, other) for name, (own, other) in self._idle.items() if other not in self._used}

    def own_names(self, value: Value, candidate: Candidate) -> tuple[str, ...]:
        """Return the names under which the tensor belongs to the head.

        Raises:
            HeadSwapError: `unsupported_layer`, if the features depend on the tensor, or if the backbone uses it under
                another name and the two uses cannot be separated.
        """
        uses = self._tracers[candidate.output.training].uses_with_input(value)
        foreign = [node for node in uses if node not in self._path_nodes]
        mine = {node.module for node in uses if node in self._path_nodes}
        owners = {self._model.get_submodule(path) for path in mine}
        names = tuple(name for name in value.names if owner_and_key(self._model, name)[0] in owners)
        others = [name for name in value.names if name not in names]
        self._used.update(names)
        if not foreign:
            idle = [name for name in others if names and not _contains(owner_path(name), names[0])]
            if idle and "" not in mine:
                self._idle[value.names[0]] = (names[0], idle[0])
            return value.names
        if len(value.names) == 1 or not others:
            before = ancestors(projection.features.value for projection in candidate.trace.projections)
            reader = next((node for node in foreign if node in before), None)
            if reader is None:
                return value.names
            raise shared_error(value.name, reader)
        if not names or "" in mine or not mine.isdisjoint(node.module for node in foreign):
            raise shared_error(value.name, foreign[0])
        self.untied[names[0]] = others[0]
        return names


def _contains(path: str, name: str) -> bool:
    return not path or name.startswith(f"{path}.")


def shared_error(name: str, reader: Node) -> HeadSwapError:
    """Return the error for a tensor of a head that an operation of the backbone reads."""
    where = reader.module or f"{reader.name} in a forward method"
    return HeadSwapError(
        "unsupported_layer",
        f"{name} belongs to the head, and {where} uses it too, so resizing it would change the backbone: give "
        "the head its own weight first",
    )
