"""A case: one model of a zoo with its head swapped, and the results that its checks share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pytest_headswap.case.abstract_runs import ModeRun, Probe, only_trainable, probes, run_modes
from pytest_headswap.case.finding import NUMERIC, STRUCTURE, CheckSkipped
from pytest_headswap.case.sample_inputs import seeded
from pytest_headswap.case.skip_init import on_meta_if_possible
from pytest_headswap.case.structure_snapshot import Record
from pytest_headswap.case.tensor_names import head_names
from pytest_headswap.case.training import Evaluation, Training, head_inputs, train
from pytest_headswap.case.value_snapshot import Snapshot
from pytest_headswap.engine import Frozen, HeadSwapError, Swap, freeze_backbone
from pytest_headswap.engine.abstract.devices import Aliases
from pytest_headswap.engine.abstract.stand_ins import META, WAYS, preserved
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.modules import parameters
from pytest_headswap.engine.swapping.plan import Plan

if TYPE_CHECKING:
    from pytest_headswap.zoo import ModelSpec

_LARGE = 2**26  # parameters


@dataclass
class Case:
    """One model with its head swapped. Checks inspect it and leave it unchanged.

    Attributes:
        zoo: name of the zoo.
        spec: where the model comes from.
        num_classes: class count of the new head.
        model: the model after the swap.
        inputs: arguments of `forward`; random numbers if the model has values.
        swap: the result of the swap.
        plan: the heads that the engine found in the model as built.
        as_built: modules, attributes and tensors of the model before the swap.
        values: values of all tensors before the swap; None without values, that is, for structure evidence.
        why_structure: why the model has no values although they were allowed; empty if it has values.
        device: device for `device_placement`: `auto`, `cpu`, `cuda` or `cuda:N`.
        too_small: devices that turned out to have too little memory for the model.
    """

    zoo: str
    spec: ModelSpec
    num_classes: int
    model: nn.Module
    inputs: Inputs
    swap: Swap
    plan: Plan
    as_built: Record
    values: Snapshot | None = None
    why_structure: str = ""
    device: str = "auto"
    too_small: list[torch.device] = field(default_factory=list)
    _frozen: Frozen | HeadSwapError | None = None

    @property
    def numeric(self) -> bool:
        """Return whether the model has values, so that checks can compute with it."""
        return self.values is not None

    @property
    def evidence(self) -> str:
        """Return the kind of evidence behind the verdicts on this case."""
        return NUMERIC if self.numeric else self.structure

    @property
    def structure(self) -> str:
        """Return `structure`, and the kind of tensors the model ran on if it was not `meta`."""
        ways = {probe.way for probe in self.before.values()}
        way = next((way for way in reversed(WAYS) if way in ways), META)
        return STRUCTURE if way == META else f"{STRUCTURE}, {way} tensors"

    @cached_property
    def before(self) -> dict[bool, Probe]:
        """Return the output shapes of the model as built, in eval mode (`False`) and train mode (`True`)."""
        return probes(self.plan.search)

    @cached_property
    def after(self) -> dict[bool, ModeRun]:
        """Return the abstract runs after the swap, with gradients and only the new head trainable.

        They are computed on first access.
        """
        with only_trainable(self.model, self.swap.parameters()), torch.enable_grad():
            return run_modes(self.model, self.inputs)

    @cached_property
    def training(self) -> Training:
        """Return the observations from a short training of the new head with real numbers.

        The training runs on first access and is undone afterwards.
        """
        assert self.values is not None, "training needs a model with values"
        with self.seeded("training"):
            reference: Mapping[str, torch.Tensor] = {}
            with suppress(Exception):  # The model may run only in train mode; output_shape reports that.
                reference = self.evaluation.into_heads
            freeze, train_mode = self.frozen, self.trainable_mode
            return train(self.swap, self.inputs, self.values, freeze=freeze, train_mode=train_mode, reference=reference)

    @cached_property
    def evaluation(self) -> Evaluation:
        """Return a real forward pass in eval mode after the swap, computed on first access."""
        _ = self.changed_by_swap  # must run before `forward` restores the values
        with head_inputs(self.model, self.swap) as seen:
            return Evaluation(self.forward(), seen)

    @cached_property
    def changed_by_swap(self) -> list[str]:
        """Return the names of backbone tensors whose values the swap changed.

        Access this before forward writes to any tensor.
        """
        return self.values.changed(without=head_names(self.swap)) if self.values is not None else []

    @property
    def large(self) -> bool:
        """Return whether real arithmetic is so slow that checks compute less, and say so."""
        return sum(value.numel() for value in parameters(self.model)) > _LARGE

    @cached_property
    def native(self) -> nn.Module:
        """Return the model as the zoo builds it for the new class count, on the meta device if possible.

        Raises:
            CheckSkipped: `no_native`, if the zoo cannot build it.
        """
        if self.spec.native is None:
            raise CheckSkipped(
                "no_native", f"the zoo {self.zoo} does not define how to build {self.spec.name} natively"
            )
        try:
            return on_meta_if_possible(partial(self.spec.native, self.num_classes), lambda model: model)
        except Exception as error:
            raise CheckSkipped(
                "no_native",
                f"the zoo {self.zoo} cannot build {self.spec.name} with {self.num_classes} classes: "
                f"{type(error).__name__}: {error}",
            ) from error

    @property
    def trainable_mode(self) -> bool:
        """Return whether the model as built runs in train mode. Otherwise it is trained in eval mode."""
        return self.before[True].error is None

    def forward(self, inputs: Inputs | None = None) -> Any:
        """Return the output of a real forward pass in eval mode, on the inputs of the case by default."""
        given = self.inputs if inputs is None else inputs
        try:
            with preserved(self.model, Aliases()), self.seeded("forward"), torch.no_grad():
                self.model.eval()
                return self.model(*given.args, **(given.kwargs or {}))
        finally:
            if self.values is not None:
                self.values.put_back()  # undo the writes of forward

    @contextmanager
    def seeded(self, *names: str) -> Iterator[None]:
        """Seed all random numbers in the block, the same in every process. Restore the RNG states afterwards."""
        with seeded(self.zoo, self.spec.name, *names):
            yield

    @contextmanager
    def frozen(self) -> Iterator[Frozen]:
        """Freeze the backbone for the duration of the block. The engine verifies the freeze the first time.

        Raises:
            HeadSwapError: `not_freezable`.
        """
        if self._frozen is None:
            try:
                self._frozen = freeze_backbone(self.swap, self.inputs)
            except HeadSwapError as error:
                self._frozen = error
        elif isinstance(self._frozen, Frozen):
            self._frozen.refreeze()
        if isinstance(self._frozen, HeadSwapError):
            raise self._frozen
        try:
            yield self._frozen
        finally:
            self._frozen.unfreeze()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore the model as it was built for the duration of the block."""
        self.swap.restore()
        try:
            yield
        finally:
            self.swap.reapply()
