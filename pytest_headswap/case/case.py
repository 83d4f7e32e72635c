"""A case: one model of a zoo with its head swapped, and what the checks share about it."""

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
    """One model with its head swapped. Checks look at it and leave it as it is.

    Attributes:
        zoo: name of the zoo.
        spec: where the model came from.
        num_classes: class count that was asked for.
        model: the model after the swap.
        inputs: what `forward` takes; random numbers where the model has values.
        swap: what the engine did.
        plan: where the engine found the heads, with what it saw of the model as it was built.
        as_built: what the model was before the swap: its modules, their attributes and its tensors.
        values: what the tensors held before the swap; None where the model has none, which is structure evidence.
        why_structure: why the model has no values although they were not declined; empty where it has.
        device: `auto`, `cpu`, `cuda` or `cuda:N`: where `device_placement` goes.
        too_small: devices that were seen to have too little memory for it.
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
        """Whether the model has values, so that checks can compute with it."""
        return self.values is not None

    @property
    def evidence(self) -> str:
        """What a verdict on this case rests on."""
        return NUMERIC if self.numeric else self.structure

    @property
    def structure(self) -> str:
        """`structure`, and how the model was run abstractly where meta did not do."""
        ways = {probe.way for probe in self.before.values()}
        way = next((way for way in reversed(WAYS) if way in ways), META)
        return STRUCTURE if way == META else f"{STRUCTURE}, {way} tensors"

    @cached_property
    def before(self) -> dict[bool, Probe]:
        """What shapes the model as the zoo built it returned, in eval mode (`False`) and train mode (`True`)."""
        return probes(self.plan.search)

    @cached_property
    def after(self) -> dict[bool, ModeRun]:
        """The abstract runs after the swap, with gradients and all but the new head frozen; made when first asked."""
        with only_trainable(self.model, self.swap.parameters()), torch.enable_grad():
            return run_modes(self.model, self.inputs)

    @cached_property
    def training(self) -> Training:
        """A short training of the new head with real numbers; made when first asked, and undone."""
        assert self.values is not None, "only a model with values can be trained"
        with self.seeded("training"):
            reference: Mapping[str, torch.Tensor] = {}
            with suppress(Exception):  # the model may run in train mode alone; output_shape says what is wrong
                reference = self.evaluation.into_heads
            freeze, train_mode = self.frozen, self.trainable_mode
            return train(self.swap, self.inputs, self.values, freeze=freeze, train_mode=train_mode, reference=reference)

    @cached_property
    def evaluation(self) -> Evaluation:
        """A real forward pass in eval mode after the swap; made when first asked."""
        _ = self.changed_by_swap  # before values are put back
        with head_inputs(self.model, self.swap) as seen:
            return Evaluation(self.forward(), seen)

    @cached_property
    def changed_by_swap(self) -> list[str]:
        """Tensors of the backbone with other values than before the swap; asked for before forward writes to any."""
        return self.values.changed(without=head_names(self.swap)) if self.values is not None else []

    @property
    def large(self) -> bool:
        """Whether real arithmetic takes so long that checks make do with less of it, and say so."""
        return sum(value.numel() for value in parameters(self.model)) > _LARGE

    @cached_property
    def native(self) -> nn.Module:
        """The model as the zoo builds it for the new class count, on meta where that is possible.

        Raises:
            CheckSkipped: `no_native`, when the zoo cannot.
        """
        if self.spec.native is None:
            raise CheckSkipped("no_native", f"the zoo {self.zoo} does not say how {self.spec.name} is built natively")
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
        """Train mode, unless the model as built does not run in it."""
        return self.before[True].error is None

    def forward(self, inputs: Inputs | None = None) -> Any:
        """What a real forward pass in eval mode returns, on the inputs of the case where no others are given."""
        given = self.inputs if inputs is None else inputs
        try:
            with preserved(self.model, Aliases()), self.seeded("forward"), torch.no_grad():
                self.model.eval()
                return self.model(*given.args, **(given.kwargs or {}))
        finally:
            if self.values is not None:
                self.values.put_back()  # what forward has written to

    @contextmanager
    def seeded(self, *names: str) -> Iterator[None]:
        """A block with random numbers of its own, the same in every process; those of the user go on after it."""
        with seeded(self.zoo, self.spec.name, *names):
            yield

    @contextmanager
    def frozen(self) -> Iterator[Frozen]:
        """A block in which the backbone is frozen; the engine verifies that the first time.

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
        """A block in which the model is as it was built."""
        self.swap.restore()
        try:
            yield
        finally:
            self.swap.reapply()
