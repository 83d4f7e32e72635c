"""The result of a search for heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_headswap.engine.detection.candidates import TensorDims
from pytest_headswap.engine.detection.describe import DetectedHead, cautions
from pytest_headswap.engine.detection.input_sizes import ClassInput
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.head import Heads, Rejected


@dataclass(frozen=True)
class SearchResult:
    """The result of a search: everything learned about a model from one run in each mode.

    Attributes:
        detected: the heads.
        rejected: layers that were considered and rejected.
        notes: facts for the user, such as a mode that could not be run.
        shapes: shapes of the labelled outputs in each mode that could be run (False: eval, True: train).
        tensor_kinds: the kind of tensors that each mode was run on.
        declared_num_classes: class count that the model declares, or None.
        train_error: why train mode could not be run.
        doubt: why the heads may be layers of another kind. Only the user can tell: `head=PATH` selects one anyway.
        competing: pairs of heads of equal size that may predict different things, by the names of their weights.
        boxes: heads that may hold box coordinates for each class of another head, likewise.
        derived: for an output dimension that no head sets, as mode, label and dimension: the tensors it may depend on,
            as for `Candidate.begins_at`.
        class_inputs: inputs of the size of a head: their name, the size, and the tensor of the model that reads them.
        used: names of the tensors of the model that some output depends on.
        scalars: class counts that forward combines with the classes as plain numbers.
    """

    detected: tuple[DetectedHead, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]
    shapes: dict[bool, dict[str, tuple[int, ...]]]
    tensor_kinds: dict[bool, str]
    declared_num_classes: int | None
    train_error: HeadSwapError | None = None
    doubt: HeadSwapError | None = None
    competing: frozenset[frozenset[str]] = frozenset()
    boxes: Mapping[str, str] = field(default_factory=dict)
    derived: Mapping[tuple[bool, str, int], TensorDims] = field(default_factory=dict)
    class_inputs: tuple[ClassInput, ...] = ()
    used: frozenset[str] = frozenset()
    scalars: frozenset[int] = frozenset()

    def heads(self) -> Heads:
        """Return the public view of the result."""
        heads = tuple(item.head for item in self.detected)
        return Heads(heads, self.rejected, (*self.notes, *cautions(self.detected)), self.tensor_kinds[False])
