"""A case is built without memory, records the model before the swap, and stays unchanged by the checks."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytest_headswap.case.build import build_case
from pytest_headswap.case.case import Case
from pytest_headswap.case.options import CaseOptions
from pytest_headswap.checks import CHECKS, run_check
from pytest_headswap.engine import HeadSwapError, NoHeadError
from pytest_headswap.zoo import ModelSpec

MakeCase = Callable[..., Case]


def _inputs(_: nn.Module) -> torch.Tensor:
    return torch.zeros(2, 8)


def test_with_abstract_evidence_the_model_is_built_on_meta_and_swapped(make_case: MakeCase) -> None:
    case = make_case(evidence="abstract")
    assert {parameter.device.type for parameter in case.model.parameters()} == {"meta"}
    assert case.model.get_parameter("fc.weight").shape == (5, 16)
    assert case.num_classes == 5
    assert case.original_runs[False].shapes["output['logits']"] == (2, 10)


def test_the_checks_leave_the_model_unchanged(make_case: MakeCase) -> None:
    case = make_case()
    case.model.train()
    state = {key: (id(value), value.clone()) for key, value in case.model.state_dict(keep_vars=True).items()}
    for name in CHECKS:
        finding = run_check(name, case)
        assert finding.outcome == "passed", finding
    now = case.model.state_dict(keep_vars=True)
    assert [id(value) for value in now.values()] == [identity for identity, _ in state.values()]
    assert all(torch.equal(now[key], value) for key, (_, value) in state.items())
    assert all(module.training for module in case.model.modules())


def test_a_model_without_a_head_raises_no_head_error() -> None:
    class Identity(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    with pytest.raises(NoHeadError):
        build_case("testzoo", ModelSpec("identity", Identity, _inputs), CaseOptions(5))


def test_inputs_of_the_wrong_shape_raise_with_the_shape() -> None:
    spec = ModelSpec("linear", lambda: nn.Linear(9, 3), _inputs)
    with pytest.raises(HeadSwapError, match=r"shape \(2, 8\)") as caught:
        build_case("testzoo", spec, CaseOptions(5))
    assert caught.value.reason == "forward_failed"


def test_inputs_are_inferred_if_the_zoo_gives_none() -> None:
    spec = ModelSpec("linear", lambda: nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3)))
    case = build_case("testzoo", spec, CaseOptions(5))
    assert {name: run_check(name, case).outcome for name in ("output_shape", "gradient_flow")} == {
        "output_shape": "passed",
        "gradient_flow": "passed",
    }


def test_a_build_that_raises_is_not_hidden() -> None:
    def build() -> nn.Module:
        raise ValueError("no such depth")

    with pytest.raises(ValueError, match="no such depth"):
        build_case("testzoo", ModelSpec("broken", build, _inputs), CaseOptions(5))


def test_the_head_named_by_the_zoo_is_swapped() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.species = nn.Linear(8, 30)
            self.colour = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.species(x), self.colour(x)

    case = build_case("testzoo", ModelSpec("two", TwoHeads, _inputs, head="colour"), CaseOptions(5))
    assert [head.path for head in case.swap.heads] == ["colour"]
    assert run_check("output_shape", case).outcome == "passed"
    assert case.swapped_runs[False].shapes == {"output[0]": (2, 30), "output[1]": (2, 5)}


@pytest.mark.parametrize("evidence", ["abstract", "numeric"])
def test_a_model_is_freed_with_its_case_without_garbage_collection(make_case: MakeCase, evidence: str) -> None:
    gc.collect()
    gc.disable()
    try:
        case = make_case(evidence=evidence)
        for name in CHECKS:
            assert run_check(name, case).outcome == "passed"
        model = weakref.ref(case.model)
        del case
        assert model() is None
    finally:
        gc.enable()


class ItsOwnCopy(nn.Linear):
    """A module that all copies of a model share, also saved ones."""

    def __deepcopy__(self, memo: object) -> ItsOwnCopy:
        return self

    def __reduce__(self) -> str:
        return "SHARED"


SHARED = ItsOwnCopy(8, 4)


@pytest.mark.parametrize("evidence", ["abstract", "numeric"])
def test_a_module_that_is_its_own_copy_outlives_the_copies(evidence: str) -> None:
    spec = ModelSpec("shares", lambda: nn.Sequential(SHARED, nn.ReLU(), nn.Linear(4, 10)), example_inputs=_inputs)
    hooks = SHARED._forward_hooks
    case = build_case("zoo", spec, CaseOptions(5, evidence))
    run_check("round_trip", case)
    assert SHARED._forward_hooks is hooks
    assert case.model[0] is SHARED  # type: ignore[index, unused-ignore]
    assert SHARED(torch.zeros(2, 8)).shape == (2, 4)
