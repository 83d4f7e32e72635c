"""A case: one model of a zoo with its head swapped, and the results that its checks share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn

from pytest_headswap.case.abstract_runs import ModeRun, OriginalRun, original_runs, run_mode, run_modes
from pytest_headswap.case.finding import ABSTRACT, NUMERIC, CheckSkipped
from pytest_headswap.case.head_inputs import HeadInputs, record_head_inputs
from pytest_headswap.case.sample_inputs import seeded
from pytest_headswap.case.skip_init import on_meta_if_possible
from pytest_headswap.case.structure_snapshot import StructureSnapshot
from pytest_headswap.case.tensor_names import swapped_names
from pytest_headswap.case.training import EvalForward, TrainingRecord, train
from pytest_headswap.case.value_snapshot import ValueSnapshot
from pytest_headswap.engine import (
    META,
    TENSOR_KINDS,
    AliasStandIns,
    FrozenBackbone,
    HeadSwapError,
    Inputs,
    NoHeadError,
    Swap,
    SwapPlan,
    apply_plan,
    freeze_backbone,
    rows_are_samples,
    substituted,
)
from pytest_headswap.engine.pytorch import ModuleState, freeze_all_but, parameters
from pytest_headswap.zoo.class_count import build_with_class_count

if TYPE_CHECKING:
    from pytest_headswap.zoo import ModelSpec

_LARGE_MODEL = 2**26  # parameters


@dataclass
class Case:
    """One model with its head swapped. Checks inspect it and leave it unchanged.

    Attributes:
        zoo: name of the zoo.
        spec: where the model comes from.
        num_classes: class count of the new head.
        model: the model after the swap.
        inputs: arguments of `forward`; random numbers if the model has values.
        original_structure: modules, attributes and tensors of the model before the swap.
        original_values: values of all tensors before the swap; None without values, that is, for abstract evidence.
        abstract_reason: why the model has no values although they were allowed; empty if it has values.
        device: device for real runs: `auto`, `cpu`, or a type such as `cuda` with or without an index.
        devices: devices on which the current check ran the model for real.
        no_head: why the model has no head; only checks that need no head get such a case. None: it has one.
    """

    zoo: str
    spec: ModelSpec
    num_classes: int
    model: nn.Module
    inputs: Inputs
    _swap: Swap | None
    _plan: SwapPlan | None
    original_structure: StructureSnapshot
    original_values: ValueSnapshot | None = None
    abstract_reason: str = ""
    device: str = "auto"
    devices: list[torch.device] = field(default_factory=list)
    no_head: NoHeadError | None = None
    _frozen: FrozenBackbone | HeadSwapError | None = None

    @property
    def swap(self) -> Swap:
        """Return the result of the swap.

        Raises:
            NoHeadError: the model has no head.
        """
        return self._swap if self._swap is not None else self._raise_no_head()

    @property
    def plan(self) -> SwapPlan:
        """Return the heads that the engine found in the model as built.

        Raises:
            NoHeadError: the model has no head.
        """
        return self._plan if self._plan is not None else self._raise_no_head()

    def _raise_no_head(self) -> NoReturn:
        assert self.no_head is not None, "a case without a swap has a reason"
        raise NoHeadError(self.no_head.reason, self.no_head.message)

    @property
    def numeric(self) -> bool:
        """Return whether the model has values, so that checks can compute with it."""
        return self.original_values is not None

    @property
    def evidence(self) -> str:
        """Return the kind of evidence behind the verdicts on this case."""
        return NUMERIC if self.numeric else self.abstract_evidence

    @property
    def abstract_evidence(self) -> str:
        """Return `abstract`, and the kind of tensors the model ran on if it was not `meta`."""
        runs = self.original_runs if self.no_head is None else {}
        tensor_kinds = {original.tensor_kind for original in runs.values()}
        tensor_kind = next((tensor_kind for tensor_kind in reversed(TENSOR_KINDS) if tensor_kind in tensor_kinds), META)
        return ABSTRACT if tensor_kind == META else f"{ABSTRACT}, {tensor_kind} tensors"

    @cached_property
    def original_runs(self) -> dict[bool, OriginalRun]:
        """Return the output shapes of the model as built, in eval mode (`False`) and train mode (`True`)."""
        return original_runs(self.plan.search_result)

    @cached_property
    def swapped_runs(self) -> dict[bool, ModeRun]:
        """Return the abstract runs after the swap, with gradients and only the new head trainable.

        They are computed on first access.
        """
        with self._only_new_head_trainable():
            return run_modes(self.model, self.inputs)

    def rerun(self, training: bool) -> ModeRun:
        """Repeat one of the abstract runs after the swap."""
        with self._only_new_head_trainable():
            return run_mode(self.model, self.inputs, training)

    @contextmanager
    def _only_new_head_trainable(self) -> Iterator[None]:
        original_state = ModuleState(self.model)
        freeze_all_but(self.model, self.swap.parameters())
        try:
            with torch.enable_grad():
                yield
        finally:
            original_state.restore()

    def refuse_if_forward_keeps_old_count(self) -> None:
        """Raise what `swap_head` raises if the outputs do not follow the new class count: one verdict for all checks.

        Raises:
            HeadSwapError: `verification_failed`, with the line of forward that causes it.
        """
        dims = {label: head.class_dim for head in self.swap.heads for label in head.class_outputs}
        for training, before in self.original_runs.items():
            expected = {
                label: (*shape[: dims[label]], self.num_classes, *shape[dims[label] + 1 :]) if label in dims else shape
                for label, shape in before.shapes.items()
            }
            if before.error is None and self.swapped_runs[training].shapes != expected:
                with self.original_head(), torch.no_grad():
                    apply_plan(self.plan, self.num_classes).restore()
                return  # the engine accepts the swap: the checks say what is wrong

    @cached_property
    def training(self) -> TrainingRecord:
        """Return the observations from a short training of the new head with real numbers.

        The training runs on first access and is undone afterwards.
        """
        assert self.original_values is not None, "training needs a model with values"
        with self.seeded("training"):
            reference: HeadInputs = {}
            with suppress(Exception):  # The model may run only in train mode; output_shape reports that.
                reference = self.evaluation.head_inputs
            return train(
                self.swap,
                self.inputs,
                self.original_values,
                freeze=self.frozen,
                train_mode=self.can_train,
                reference=reference,
                rows_are_samples=self.rows_are_samples,
            )

    @property
    def rows_are_samples(self) -> bool:
        """Return whether the first dimension of the inputs counts samples, as far as the data flow shows."""
        graph = self.swapped_runs[False].graph
        return graph is None or rows_are_samples(graph)

    @cached_property
    def evaluation(self) -> EvalForward:
        """Return a real forward pass in eval mode after the swap, computed on first access."""
        _ = self.values_changed_by_swap  # must run before `forward` restores the values
        with record_head_inputs(self.model, self.swap) as inputs:
            return EvalForward(self.forward(), inputs)

    @cached_property
    def values_changed_by_swap(self) -> list[str]:
        """Return the names of backbone tensors whose values the swap changed.

        Access this before forward writes to any tensor.
        """
        values = self.original_values
        return values.changed(without=swapped_names(self.swap)) if values is not None else []

    @property
    def is_large(self) -> bool:
        """Return whether real arithmetic is so slow that checks compute less, and say so."""
        return sum(value.numel() for value in parameters(self.model)) > _LARGE_MODEL

    @cached_property
    def native(self) -> nn.Module:
        """Return the model as the zoo builds it for the new class count, on the meta device if possible.

        Raises:
            CheckSkipped: `no_native`, if the zoo cannot build it.
        """
        if self.spec.build_native is None:
            raise CheckSkipped(
                "no_native", f"the zoo {self.zoo} does not define how to build {self.spec.name} natively"
            )
        try:
            return on_meta_if_possible(
                partial(build_with_class_count, self.spec.build_native, self.num_classes), lambda model: model
            )
        except Exception as error:
            raise CheckSkipped(
                "no_native",
                f"the zoo {self.zoo} cannot build {self.spec.name} with {self.num_classes} classes: "
                f"{type(error).__name__}: {error}",
            ) from error

    @property
    def can_train(self) -> bool:
        """Return whether the model as built runs in train mode. Otherwise it is trained in eval mode."""
        return self.original_runs[True].error is None

    def forward(self, inputs: Inputs | None = None) -> Any:
        """Return the output of a real forward pass in eval mode, on the inputs of the case by default."""
        forward_inputs = (self.inputs if inputs is None else inputs).copied()
        try:
            with substituted(self.model, AliasStandIns()), self.seeded("forward"), torch.no_grad():
                self.model.eval()
                return self.model(*forward_inputs.args, **forward_inputs.kwargs)
        finally:
            if self.original_values is not None:
                self.original_values.restore()  # undo the writes of forward

    @contextmanager
    def seeded(self, *names: str) -> Iterator[None]:
        """Seed all random numbers in the block, the same in every process. Restore the RNG states afterwards."""
        with seeded(self.zoo, self.spec.name, *names):
            yield

    @contextmanager
    def frozen(self) -> Iterator[FrozenBackbone]:
        """Freeze the backbone for the duration of the block. The engine verifies the freeze the first time.

        Raises:
            HeadSwapError: `not_freezable`.
        """
        flags = [(parameter, parameter.requires_grad) for parameter in parameters(self.model)]
        try:
            if self._frozen is None:
                self.model.requires_grad_(
                    requires_grad=False
                )  # otherwise the freeze keeps what its builder left trainable
                try:
                    self._frozen = freeze_backbone(self.swap, self.inputs)
                except HeadSwapError as error:
                    self._frozen = error
            elif isinstance(self._frozen, FrozenBackbone):
                self._frozen.refreeze()
            if isinstance(self._frozen, HeadSwapError):
                raise self._frozen
            try:
                yield self._frozen
            finally:
                self._frozen.unfreeze()
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    @contextmanager
    def original_head(self) -> Iterator[None]:
        """Restore the model as it was built for the duration of the block."""
        self.swap.restore()
        try:
            yield
        finally:
            self.swap.reapply()
