"""`native_parity` compares keys and shapes with a model that the zoo built, or skips with a reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytest_headswap.case.case import Case
from pytest_headswap.checks import run_check

MakeCase = Callable[..., Case]


def test_a_model_with_the_native_layout_passes(make_case: MakeCase) -> None:
    finding = run_check("native_parity", make_case())
    assert (finding.outcome, finding.evidence) == ("passed", "abstract")


def _lose_a_key(model: nn.Module) -> None:
    model.get_submodule("backbone").register_parameter("bias", None)


def _add_a_key(model: nn.Module) -> None:
    model.register_buffer("extra", torch.zeros(3))


def _rename_a_layer(model: nn.Module) -> None:
    model.add_module("classifier", model.get_submodule("fc"))
    del model.fc


def _leave_the_old_width(model: nn.Module) -> None:
    model.add_module("aux", nn.Linear(16, 10))


def _wrap_the_head(model: nn.Module) -> None:
    model.add_module("fc", nn.Sequential(nn.Dropout(), model.get_submodule("fc")))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_lose_a_key, "missing: backbone.bias (16,)"),
        (_add_a_key, "unexpected: extra (3,)"),
        (_rename_a_layer, "missing: fc.weight (5, 16), fc.bias (5,); unexpected: classifier.weight (5, 16)"),
        (_leave_the_old_width, "wrong shape: aux.weight is (10, 16) instead of (5, 16)"),
        (_wrap_the_head, "unexpected: fc.1.weight (5, 16)"),
    ],
)
def test_a_planted_fault_fails(make_case: MakeCase, fault: Callable[[nn.Module], None], message: str) -> None:
    case = make_case()
    fault(case.model)
    finding = run_check("native_parity", case)
    assert finding.outcome == "failed"
    assert message in finding.message
    assert finding.message.startswith("the state_dict differs from that of net built with 5 classes")


def test_a_long_list_of_differences_is_truncated(make_case: MakeCase) -> None:
    finding = run_check("native_parity", make_case(native=lambda num_classes: nn.Linear(num_classes, 1)))
    assert "unexpected: steps (), backbone.weight (16, 8), backbone.bias (16,)" in finding.message
    assert finding.message.count("bn.") == 2
    assert finding.message.endswith("and 7 more")


def test_a_zoo_without_a_native_build_skips_with_a_reason(make_case: MakeCase) -> None:
    finding = run_check("native_parity", make_case(native=None))
    assert (finding.outcome, finding.reason) == ("skipped", "no_native")
    assert finding.message == "the zoo testzoo does not define how to build net natively"


def test_a_native_build_that_raises_skips_with_the_exception(make_case: MakeCase) -> None:
    def refuse(num_classes: int) -> nn.Module:
        raise AssertionError(f"{num_classes} classes are not supported")

    finding = run_check("native_parity", make_case(native=refuse))
    assert (finding.outcome, finding.reason) == ("skipped", "no_native")
    assert finding.message.endswith("cannot build net with 5 classes: AssertionError: 5 classes are not supported")


def test_a_native_model_that_fits_takes_no_memory(make_case: MakeCase) -> None:
    devices = []
    spec = make_case().spec
    assert spec.build_native is not None
    build_native = spec.build_native

    def build(num_classes: int) -> nn.Module:
        devices.append(torch.empty(0).device.type)
        return build_native(num_classes)

    assert run_check("native_parity", make_case(native=build)).outcome == "passed"
    assert devices == ["meta"]


class LargerOnMeta(nn.Module):
    """A layer that registers a tensor only where it has values to compute it from."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone, self.fc = nn.Linear(8, 16), nn.Linear(16, num_classes)
        if not self.fc.weight.is_meta:
            self.register_buffer("base", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.backbone(x))  # type: ignore[no-any-return]


def test_a_tensor_that_is_not_registered_on_the_meta_device_is_no_difference(make_case: MakeCase) -> None:
    case = make_case(native=LargerOnMeta)
    case.model = LargerOnMeta(5)
    assert run_check("native_parity", case).outcome == "passed"
    case.model.register_buffer("other", torch.zeros(3))
    assert "; unexpected: other (3,)" in run_check("native_parity", case).message
