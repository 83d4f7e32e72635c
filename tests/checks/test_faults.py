"""Faults are planted in the engine and in models. Each must fail its check with a message that names the fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap.case.case import Case
from pytest_headswap.case.structure_snapshot import StructureSnapshot
from pytest_headswap.checks import CHECKS, run_check
from pytest_headswap.engine import FrozenBackbone, Swap, freeze_backbone
from pytest_headswap.engine.freezing.awake import NOTHING
from pytest_headswap.engine.swapping import resize, swap_head
from pytest_headswap.engine.swapping.numbers_around import NumbersAround
from pytest_headswap.engine.swapping.transaction import Transaction
from tests import planted_models
from tests.faulty_net import FEATURE_FAULTS

MakeCase = Callable[..., Case]
Patch = pytest.MonkeyPatch


# --- faults in the engine, planted before the case is built: each takes a monkeypatch


def _new_tensors_on_the_cpu(patch: Patch) -> None:
    real = resize.make_class_tensor
    patch.setattr(
        resize, "make_class_tensor", lambda *args: nn.Parameter(torch.zeros(real(*args).shape, dtype=args[0].dtype))
    )


def _new_tensors_in_float32(patch: Patch) -> None:
    real = resize.make_class_tensor
    patch.setattr(resize, "make_class_tensor", lambda *args: nn.Parameter(real(*args).detach().float()))


def _class_counts_are_not_updated(patch: Patch) -> None:
    patch.setattr(NumbersAround, "named_like_counts", lambda self: [])
    patch.setattr(swap_head, "update_class_metadata", lambda *args: [])


def _layer_widths_are_not_updated(patch: Patch) -> None:
    patch.setattr(NumbersAround, "of_layers", lambda self: [])
    patch.setattr(resize, "update_layer_widths", lambda *args, **options: None)


def _only_requires_grad_is_set(patch: Patch) -> None:
    """Freeze the way most people do."""

    def naive(swap: Swap, _: object = None) -> FrozenBackbone:
        new = {id(parameter) for parameter in swap.parameters()}
        for parameter in swap.model.parameters():
            parameter.requires_grad_(id(parameter) in new)
            parameter.grad = None
        return FrozenBackbone(swap.model, (), NOTHING, NOTHING, swap._plan.inputs, None)

    patch.setattr("pytest_headswap.case.case.freeze_backbone", naive)


def _freezing_is_not_verified(patch: Patch) -> None:
    """The engine verifies a model without the fault."""

    def unverified(swap: Swap, inputs: Any = None) -> FrozenBackbone:
        model: Any = swap.model
        fault, model.fault = model.fault, ""
        try:
            return freeze_backbone(swap, inputs)
        finally:
            model.fault = fault

    patch.setattr("pytest_headswap.case.case.freeze_backbone", unverified)


def _one_parameter_stays_trainable(patch: Patch) -> None:
    def forgetful(swap: Swap, inputs: Any = None) -> FrozenBackbone:
        frozen = freeze_backbone(swap, inputs)
        swap.model.get_parameter("backbone.bias").requires_grad_()
        return frozen

    patch.setattr("pytest_headswap.case.case.freeze_backbone", forgetful)


def _stale_gradients_are_kept(patch: Patch) -> None:
    def careless(swap: Swap, inputs: Any = None) -> FrozenBackbone:
        left = {name: parameter.grad for name, parameter in swap.model.named_parameters()}
        frozen = freeze_backbone(swap, inputs)
        for name, parameter in swap.model.named_parameters():
            parameter.grad = left[name]
        return frozen

    patch.setattr("pytest_headswap.case.case.freeze_backbone", careless)


def _train_undoes_eval_mode(patch: Patch) -> None:
    def freeze_once(swap: Swap, inputs: Any = None) -> FrozenBackbone:
        frozen = freeze_backbone(swap, inputs)
        for module in swap.model.modules():
            module.__dict__.pop("train", None)
        return frozen

    patch.setattr("pytest_headswap.case.case.freeze_backbone", freeze_once)


def _statistics_are_reset(patch: Patch) -> None:
    def reset(self: Any) -> None:
        type(self.module).reset_running_stats(self.module)

    patch.setattr("pytest_headswap.engine.freezing.overrides._KeepStatistics.__call__", reset)


def _replaced_children_wake(patch: Patch) -> None:
    def train(self: Any, mode: bool = True) -> nn.Module:
        return type(self.module).train(self.module, mode)  # type: ignore[no-any-return]

    patch.setattr("pytest_headswap.engine.freezing.overrides.TrainAround.__call__", train)


def _replaced_norms_of_blocks_wake(patch: Patch) -> None:
    _replaced_children_wake(patch)

    def train(self: Any, mode: bool = True) -> nn.Module:
        for child in self.module.children():
            child.train(mode)
        self.module.training = False
        return self.module  # type: ignore[no-any-return]

    patch.setattr("pytest_headswap.engine.freezing.overrides._StayInEval.__call__", train)


def _copies_lose_eval_mode(patch: Patch) -> None:
    def freeze_without_copies(swap: Swap, inputs: Any = None) -> FrozenBackbone:
        frozen = freeze_backbone(swap, inputs)
        for module in swap.model.modules():
            if "train" in module.__dict__:
                module.__dict__["train"] = _Uncopied(module)
        return frozen

    patch.setattr("pytest_headswap.case.case.freeze_backbone", freeze_without_copies)


class _Uncopied:
    """A `train` override that copies do not keep."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        return nn.Module.train(self.module, mode=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (type(self.module).train, self.module)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        import copy

        return partial(type(self.module).train, copy.deepcopy(self.module, memo))


def _restore_forgets_the_first_change(patch: Patch) -> None:
    real = Transaction.roll_back

    def forgetful(self: Transaction, *later: Any) -> None:
        del self._done[:1]
        real(self, *later)

    patch.setattr(Transaction, "roll_back", forgetful)


def _restore_gives_copies(patch: Patch) -> None:
    real = Transaction.roll_back

    def copying(self: Transaction, *later: Any) -> None:
        self._done[:] = [
            replace(change, old=nn.Parameter(change.old.detach().clone()))
            if isinstance(change.old, nn.Parameter)
            else change
            for change in self._done
        ]
        real(self, *later)

    patch.setattr(Transaction, "roll_back", copying)


def _reapply_does_nothing(patch: Patch) -> None:
    patch.setattr(Transaction, "replay", lambda self: None)


def _state_dict_has_no_biases(patch: Patch) -> None:
    real = Swap.state_dict
    patch.setattr(Swap, "state_dict", lambda self: {k: v for k, v in real(self).items() if not k.endswith("bias")})


def _loading_a_head_does_nothing(patch: Patch) -> None:
    patch.setattr(Swap, "load_state_dict", lambda self, state: None)


# --- faults in a case, as a broken engine or model would leave them: each takes the case


def _switch(fault: str) -> Callable[[Case], None]:
    def switch(case: Case) -> None:
        model: Any = case.model
        model.fault = fault
        model.hidden += [torch.zeros(16, requires_grad=True), torch.zeros(5, 16)]

    return switch


def _change(path: str, registry: str, key: str, value: Callable[[Any], Any]) -> Callable[[Case], None]:
    """Return a fault that is part of the swap, so that `restore` undoes it."""

    def change(case: Case) -> None:
        mapping = getattr(case.model.get_submodule(path), registry)
        case.swap._changes.set(mapping, key, value(mapping.get(key)))

    return change


def _write_to_the_backbone(case: Case) -> None:
    with torch.no_grad():
        case.model.get_parameter("backbone.weight").mul_(2)


def _write_to_the_old_head(case: Case) -> None:
    with case.original_head(), torch.no_grad():
        case.model.get_parameter("fc.weight").mul_(2)


def _freeze_the_new_head(case: Case) -> None:
    case.swap.parameters = lambda: iter(())  # type: ignore[method-assign]


def _report_another_count(case: Case) -> None:
    case.swap.heads = tuple(replace(head, num_classes=10) for head in case.swap.heads)


def _name_another_layer_as_alias(case: Case) -> None:
    case.swap.heads = tuple(replace(head, aliases=("aux",)) for head in case.swap.heads)


def _attribute(owner: str, key: str, value: Any) -> Callable[[Case], None]:
    def set_it(case: Case) -> None:
        target: Any = case.model
        for part in owner.split(".") if owner else ():
            target = getattr(target, part)
        setattr(target, key, value)

    return set_it


def _copies_lose_the_scale(case: Case) -> None:
    """Make forward depend on something that does not survive pickling."""
    model: Any = case.model
    model.backbone.register_forward_hook(_Doubling())


def _copies_raise(case: Case) -> None:
    case.model.register_forward_pre_hook(_Raising())


def _copies_lose_a_feature(case: Case) -> None:
    case.model.get_submodule("fc").register_forward_hook(_Cutting())


class _Raising:
    """A hook that raises after it was pickled."""

    copied = False

    def __call__(self, _module: nn.Module, _args: Any) -> None:
        if self.copied:
            raise RuntimeError("lost")

    def __getstate__(self) -> dict[str, bool]:
        return {"copied": True}


class _Cutting(_Raising):
    """A hook that cuts the output of a layer after it was pickled."""

    def __call__(self, _module: nn.Module, _args: Any, output: Any = None) -> Any:
        return output[:, :2] if self.copied else output


class _Doubling:
    """A hook that doubles the output of a layer until it is pickled."""

    factor = 2.0

    def __call__(self, _module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return output * self.factor

    def __setstate__(self, state: Any) -> None:
        self.factor = 1.0

    def __getstate__(self) -> dict[str, float]:
        return {"factor": 1.0}


def _unpicklable_since_the_swap(case: Case) -> None:
    case.swap._changes.set(case.model.get_submodule("fc").__dict__, "note", lambda: None)


def _the_swap_reports_another_head_path(case: Case) -> None:
    case.swap.heads = (case.swap.heads[0],)
    case.swap.heads = tuple(replace(head, path="backbone") for head in case.swap.heads)


def _the_case_has_another_count(case: Case) -> None:
    case.num_classes = 6


def _restore_leaves_an_attribute(case: Case) -> None:
    layer: Any = case.model.get_submodule("backbone")
    layer.note = "old"
    with case.original_head():
        case.original_structure = StructureSnapshot(case.model)
    layer.note = "new"


THROUGH_DATA = "weight written through .data"
ASSIGNED = {
    "weight assigned through .data": "backbone.weight",
    "weight assigned": "backbone.weight",
    "buffer assigned": "steps",
    "buffer assigned in the registry": "steps",
}
"""Faults that put another tensor in the place of one, and its name."""


UNREGISTERED = {
    planted_models.ModuleInList: r"blocks\[0\].weight",
    planted_models.ModuleInListForTraining: r"blocks\[0\].weight",
    planted_models.ModuleInObject: "parts.adapter.weight",
    planted_models.TensorInObject: r"parts.scale\['main'\]",
    planted_models.TensorInClosure: "rescale: scale",
    planted_models.ModuleInGlobal: "between: GLOBAL_LAYER.weight",
    planted_models.TensorInGlobal: "between: GLOBAL_SCALE",
}
"""Models with a trainable tensor that they do not register, and its place."""
LATE = {
    planted_models.LateMixing: ("frozen_backbone", "on earlier batches or on the other samples of its batch: fc by"),
    planted_models.SecondMixing: ("frozen_backbone", "on earlier batches or on the other samples of its batch: fc by"),
    planted_models.LateMixingBesideAScale: ("frozen_backbone", "on earlier batches .*: fc by"),
    planted_models.LateMixingByList: ("frozen_backbone", "on earlier batches .*: fc by"),
    planted_models.LateMixingByObject: ("frozen_backbone", "on earlier batches .*: fc by"),
    planted_models.LateMixingByTensor: ("frozen_backbone", "on earlier batches .*: fc by"),
    planted_models.LateMixingByClosure: ("frozen_backbone", "on earlier batches .*: fc by"),
    planted_models.LateMixingByClass: ("frozen_backbone", "on earlier batches .*: fc by"),
    planted_models.LateChance: ("frozen_backbone", "depend on chance, .*: fc by"),
    planted_models.LateNaN: ("frozen_backbone", "not finite in output in step 3"),
    planted_models.LateError: ("frozen_backbone", "forward raises RuntimeError in step 3: out of luck"),
    planted_models.LateWrite: ("frozen_backbone", "changed backbone.weight of"),
    planted_models.LateUnfreeze: ("gradient_flow", "gradients outside the new head, in backbone.weight"),
    planted_models.LateWidth: ("frozen_backbone", r"output has shape \(2, 8\) in step 3"),
    planted_models.LateDetach: ("gradient_flow", "no gradient to fc.weight in step 3"),
}
"""Models whose fault only a second or third step shows, the check that fails, and its message."""
BACKWARDS = {
    planted_models.BackwardHookOfModel: "steps",
    planted_models.BackwardPreHookOfHead: "steps",
    planted_models.HookOfLogits: "average",
    planted_models.HookOfWeight: "steps",
    planted_models.FunctionThatWrites: "backbone.weight",
}
"""Models whose backward pass changes a tensor of the backbone, and its name."""
BOUND_TO_A_DEVICE = {
    planted_models.LeavesTheDevice: "on cuda:0 in eval mode, forward raises .* with a CPU tensor",
    planted_models.AddsFromTheCpu: "on cuda:0 in eval mode, forward raises .* with a CPU tensor",
    planted_models.HasNoKernel: "on cuda:0 in eval mode, forward raises RuntimeError: no kernel",
    planted_models.AddsFromTheCpuIfCudaIsAvailable: "on cuda:0 in eval mode, forward raises .* with a CPU tensor",
    planted_models.CannotBeMoved: "raises RuntimeError: cannot be moved",
    planted_models.ImportsAKernelAndMixes: "on a device in eval mode, .* mixes tensors on the device with a CPU tensor",
    planted_models.MovesNothing: "leaves backbone.weight, .* where they were",
    planted_models.LeavesABufferBehind: "leaves offset where they were",
    planted_models.FetchesABuffer: "leaves offset where they were",
}
"""Models that do not work on another device, and the message."""


@dataclass(frozen=True)
class Fault:
    """A fault in the engine, the case or the model, the check that must fail, and a pattern of its message."""

    check: str
    message: str
    engine: Callable[[Patch], None] | None = None
    case: Callable[[Case], None] | None = None
    evidence: str = "auto"
    native: bool = True
    model: Callable[[], nn.Module] | None = None

    def __str__(self) -> str:
        fault = self.engine or self.case or self.model
        return f"{self.check}: {self.message} {getattr(fault, '__name__', '')} {self.evidence}"


FAULTS = [
    Fault("output_shape", r"in eval mode, output\['logits'\] has shape \(2, 10\)", case=_switch("old width")),
    Fault("output_shape", r"in train mode, output\['logits'\] has shape", case=_switch("old width in train mode")),
    Fault("output_shape", r"in eval mode, output\['logits'\] has shape \(1, 5\)", case=_switch("samples lost")),
    Fault("output_shape", r"shape \(5, 2\) after", case=_switch("classes in the wrong dimension")),
    Fault(
        "output_shape", r"output\['features'\] is not a class output", case=_switch("features follow the class count")
    ),
    Fault("output_shape", r"returned .*features.* before", case=_switch("output lost")),
    Fault("output_shape", "ran in train mode before .*out of luck", case=_switch("raises in train mode")),
    Fault("output_shape", r"10 of 10 values in output\['logits'\] are not finite", case=_switch("NaN")),
    Fault(
        "output_shape",
        r"with \d+ classes and a batch of \d .*output\['logits'\]|with \d+ classes .*raises",
        case=_switch("class count written into forward"),
    ),
    Fault("native_parity", "missing: backbone.bias", case=_change("backbone", "_parameters", "bias", lambda _: None)),
    Fault("native_parity", r"unexpected: extra \(3,\)", case=_change("", "_buffers", "extra", lambda _: torch.ones(3))),
    Fault(
        "native_parity", r"aux.weight is \(10, 16\)", case=_change("", "_modules", "aux", lambda _: nn.Linear(16, 10))
    ),
    Fault("metadata", "num_classes is 10, but 5 in the native", engine=_class_counts_are_not_updated),
    Fault("metadata", "fc.out_features is 10, but 5 in the native", engine=_layer_widths_are_not_updated),
    Fault(
        "metadata",
        "config.id2label is a collection of 10 entries",
        case=_attribute("config", "id2label", dict.fromkeys(range(10))),
    ),
    Fault("metadata", "old class count 10: config.num_classes", case=_attribute("config", "num_classes", "10")),
    Fault(
        "metadata",
        "old class count 10: config.num_classes",
        case=_attribute("config", "num_classes", " 10"),
        native=False,
    ),
    Fault("metadata", "old class count 10: num_classes", engine=_class_counts_are_not_updated, native=False),
    Fault("metadata", "reports 10 classes after the swap", case=_report_another_count),
    Fault("metadata", "aux should be the same layer as the head 'fc'", case=_name_another_layer_as_alias),
    Fault("state_dict", "removed backbone.weight", case=_change("", "_modules", "backbone", nn.Sequential)),
    Fault(
        "state_dict",
        "replaced the tensors backbone.weight",
        case=_change("backbone", "_parameters", "weight", lambda old: nn.Parameter(old.detach().clone())),
    ),
    Fault("state_dict", "does not accept checksum of the backbone", model=planted_models.LoadsOnlyWhole),
    Fault("state_dict", "changed the values of backbone.weight", case=_write_to_the_backbone),
    Fault(
        "state_dict",
        "fc.weight are parts of larger tensors",
        case=_change("fc", "_parameters", "weight", lambda old: nn.Parameter(torch.randn(500, 16)[: len(old)])),
    ),
    Fault("state_dict", "replaced the tensors .*fc.bias", engine=_state_dict_has_no_biases),
    Fault("state_dict", "loading the head into this model changed fc.weight", engine=_loading_a_head_does_nothing),
    Fault("gradient_flow", "in eval mode, no class output has a gradient", case=_switch("head without gradients")),
    Fault("gradient_flow", "no gradient .* reaches fc.weight", case=_switch("weight detached")),
    Fault("gradient_flow", "in eval mode, no .*", case=_switch("head is not called")),
    Fault("gradient_flow", "in train mode, .* fc.bias, fc.weight", case=_switch("head detached in train mode")),
    Fault("gradient_flow", "reaches aux.bias, aux.weight in any mode", case=_switch("auxiliary head detached")),
    Fault("gradient_flow", "still trains backbone.weight", case=_switch("backbone unfreezes itself")),
    Fault("gradient_flow", r"still trains a tensor of shape \(16,\)", case=_switch("hidden tensor is trained")),
    *[
        Fault("gradient_flow", rf"not a registered parameter, held by {place}", model=model, evidence=evidence)
        for model, place in UNREGISTERED.items()
        for evidence in ("auto", "abstract")
    ],
    Fault("gradient_flow", "gradients outside .* in backbone.bias", engine=_one_parameter_stays_trainable),
    Fault("gradient_flow", "gradients outside .* in backbone.weight, backbone.bias", engine=_stale_gradients_are_kept),
    Fault("gradient_flow", "not finite in fc.bias, fc.weight", case=_switch("infinite gradient")),
    Fault("gradient_flow", "all gradients are zero in fc.bias, fc.weight", case=_switch("no gradient left")),
    Fault("frozen_backbone", r"train\(\) puts backbone, bn", engine=_only_requires_grad_is_set),
    Fault("frozen_backbone", r"train\(\) puts backbone, bn", engine=_train_undoes_eval_mode),
    Fault("frozen_backbone", "train.. puts backbone, bn", engine=_train_undoes_eval_mode, evidence="abstract"),
    *[
        Fault("frozen_backbone", message, engine=engine, evidence=evidence, model=model)
        for message, engine, model in (
            (r"do not stay: update_bn resets bn\.running_mean", _statistics_are_reset, None),
            ("do not stay: update_bn resets bn.num_batches_tracked", None, planted_models.ResetsItsStatistics),
            ("do not stay: convert_sync_batchnorm wakes bn", _replaced_children_wake, None),
            ("wakes blocks.0.1", _replaced_norms_of_blocks_wake, planted_models.NormInBlock),
        )
        for evidence in ("auto", "abstract")
    ],
    Fault("frozen_backbone", "changed backbone.weight, backbone.bias", engine=_stale_gradients_are_kept),
    Fault(
        "frozen_backbone",
        "still has trainable parameters: backbone.bias",
        engine=_one_parameter_stays_trainable,
        evidence="abstract",
    ),
    Fault("frozen_backbone", "writes to steps", case=_switch("buffer written")),
    Fault("frozen_backbone", "writes to steps", case=_switch("buffer written"), evidence="abstract"),
    Fault("frozen_backbone", "writes to backbone.weight", case=_switch(THROUGH_DATA)),
    Fault("frozen_backbone", "changed steps of", _freezing_is_not_verified, _switch("buffer written")),
    Fault("frozen_backbone", "changed backbone.weight", _freezing_is_not_verified, _switch(THROUGH_DATA)),
    Fault("frozen_backbone", "bernoulli_ in a forward method", case=_switch("chance"), evidence="abstract"),
    *[
        Fault("frozen_backbone", f"writes to {name}", case=_switch(fault), evidence=evidence)
        for fault, name in ASSIGNED.items()
        for evidence in ("auto", "abstract")
    ],
    *[
        Fault("frozen_backbone", f"changed {name} of", _freezing_is_not_verified, _switch(fault))
        for fault, name in ASSIGNED.items()
    ],
    *[
        Fault("frozen_backbone", message, case=_switch(fault), evidence="abstract")
        for fault, message in (
            ("batch mixed", "mean in a forward method combines the samples"),
            ("sum of the samples before", "cumsum in a forward method combines the samples"),
            ("sum of the samples behind", "flip in a forward method combines the samples"),
            ("first sample subtracted", "select in a forward method combines the samples"),
            ("samples exchanged", "index in a forward method combines the samples"),
            ("chance of normal", "normal in a forward method"),
            ("chance of rrelu", "rrelu_with_noise in a forward method"),
            ("chance of NumPy", r"random numbers from numpy\.random even in eval mode"),
            ("chance of Python", "random numbers from Python's random even in eval mode"),
        )
    ],
    *[
        Fault("frozen_backbone", "on the other samples .* (aux|fc) by", _freezing_is_not_verified, _switch(fault))
        for fault in FEATURE_FAULTS
    ],
    *[Fault(check, message, model=model) for model, (check, message) in LATE.items()],
    *[Fault("frozen_backbone", f"changed {name} of", model=model) for model, name in BACKWARDS.items()],
    Fault("frozen_backbone", "softmax in a forward method combines the samples", model=planted_models.AttendsToSamples),
    Fault("frozen_backbone", "did not change the head fc", case=_switch("head without gradients")),
    Fault("round_trip", "does not restore the original model: fc.weight", engine=_restore_forgets_the_first_change),
    Fault("round_trip", "fc.weight is another Parameter", engine=_restore_gives_copies),
    Fault("round_trip", "fc.weight has different values", case=_write_to_the_old_head),
    Fault("round_trip", r"reapply\(\) does not restore", engine=_reapply_does_nothing),
    Fault("round_trip", "does not find the new head 'backbone'", case=_the_swap_reports_another_head_path),
    Fault("round_trip", "does not find the new head 'fc': found 'fc' with 5 classes", case=_the_case_has_another_count),
    Fault("round_trip", "loading changed backbone.weight, backbone.bias", model=planted_models.CopiesAreTrainable),
    Fault("round_trip", "backbone.note is 'new', not 'old'", case=_restore_leaves_an_attribute),
    Fault("round_trip", "cannot be copied and saved", case=_unpicklable_since_the_swap),
    Fault("round_trip", "a copy of the frozen model", engine=_copies_lose_eval_mode),
    Fault("round_trip", r"different values in output\['logits'\]", case=_copies_lose_the_scale),
    Fault("round_trip", "a copy of the model cannot be run: .*lost", case=_copies_raise, evidence="abstract"),
    Fault("round_trip", "a copy of the model returns", case=_copies_lose_a_feature, evidence="abstract"),
    Fault("device_placement", "the head has fc.weight on cpu", engine=_new_tensors_on_the_cpu),
    Fault("device_placement", "the head has fc.weight in torch.float32", engine=_new_tensors_in_float32),
    Fault("device_placement", "on (cuda:0|a device) in eval mode, .*(cpu|CPU)", case=_switch("tensor made on the CPU")),
    Fault("device_placement", "on (cuda:0|a device) in eval mode, .*(cpu|CPU)", case=_switch("head kept aside")),
    *[
        Fault("device_placement", message, model=model, evidence=evidence)
        for model, message in BOUND_TO_A_DEVICE.items()
        for evidence in ("auto", "abstract")
    ],
    Fault("device_placement", r"returns output\['logits'\] on cpu", case=_switch("outputs on the CPU")),
]


_TRAINED = ("gradient_flow", "frozen_backbone")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_planted_fault_fails_its_check(fault: Fault, make_case: MakeCase, monkeypatch: Patch) -> None:
    if fault.engine is not None and fault.case is None:
        fault.engine(monkeypatch)
    models: dict[str, Any] = {} if fault.native else {"native": None}
    if fault.model is not None:
        models = {"build": fault.model, "native": fault.model}
    case = make_case(evidence=fault.evidence, **models)
    if fault.engine is not None and fault.case is not None:
        fault.engine(monkeypatch)
    if fault.case is not None:
        fault.case(case)
    finding = run_check(fault.check, case)
    assert finding.outcome == "failed", finding
    assert re.search(fault.message, finding.message), finding.message
    assert finding.evidence.startswith({"native_parity": "abstract", "metadata": "abstract"}.get(fault.check, ""))


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.check in _TRAINED], ids=str)
def test_a_planted_fault_fails_its_check_in_a_large_model(
    fault: Fault, make_case: MakeCase, monkeypatch: Patch
) -> None:
    monkeypatch.setattr("pytest_headswap.case.case._LARGE_MODEL", 0)
    test_a_planted_fault_fails_its_check(fault, make_case, monkeypatch)


def test_values_changed_by_the_swap_are_reported_after_other_checks_ran(make_case: MakeCase) -> None:
    case = make_case()
    _write_to_the_backbone(case)
    for name in CHECKS:
        if name == "state_dict":
            break
        run_check(name, case)
    assert run_check("state_dict", case).outcome == "failed"


def test_every_check_has_at_least_three_faults() -> None:
    for name in CHECKS:
        assert len({fault.message for fault in FAULTS if fault.check == name}) >= 3, name
