"""A check that needs no head runs on every model of a zoo, isolated and reported like any other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pytest_headswap import Case, Check, CheckFailed, check_headswap
from pytest_headswap.results import Result

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

CHECKS = """
import os
from pytest_headswap import Check, CheckFailed, CheckSkipped

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.layer = nn.Linear(8, 16), nn.Linear(16, 16)
    def forward(self, x):
        x = self.stem(x)
        return x + self.layer(x)

class Crashing(Encoder):
    pass

SPECS = {
    "alpha": dict(build=Net),
    "crashing": dict(build=Crashing),
    "encoder": dict(build=Encoder),
    "refused": dict(build=Encoder, skip_reason="no licence"),
    "unbuildable": dict(build=unbuildable),
}

def finite(case):
    if type(case.model).__name__ == "Crashing":
        os._exit(5)
    if not case.forward().isfinite().all():
        raise CheckFailed("not finite")
    return "no head" if case.no_head is not None else "with a head"

def small(case):
    if sum(parameter.numel() for parameter in case.model.parameters()) > 300:
        raise CheckFailed("too large")

def reads_swap(case):
    return str(len(case.swap.heads))

def not_mine(case):
    raise CheckSkipped("not_mine", "another team tests this")

def pytest_headswap_checks(config):
    checks = [Check(item.__name__, item, needs_head=False) for item in (finite, small, reads_swap, not_mine)]
    return {check.name: check for check in checks}
"""
NAMES = "--headswap-checks=output_shape,finite,small,reads_swap,not_mine"


def test_the_check_runs_with_and_without_a_head(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(CHECKS)
    project.runpytest_inprocess("--headswap-zoo=testzoo", NAMES, "--headswap-models=!crashing")
    found = {nodeid.removeprefix("testzoo::"): item for nodeid, item in journal().items()}
    assert {name: item.outcome for name, item in found.items()} == {
        "alpha::output_shape": "passed",
        "alpha::finite": "passed",
        "alpha::small": "passed",
        "alpha::reads_swap": "passed",
        "alpha::not_mine": "skipped",
        "encoder::output_shape": "skipped",
        "encoder::finite": "passed",
        "encoder::small": "failed",
        "encoder::reads_swap": "error",
        "encoder::not_mine": "skipped",
        **{f"refused::{name}": "skipped" for name in ("output_shape", "finite", "small", "reads_swap", "not_mine")},
        **{f"unbuildable::{name}": "error" for name in ("output_shape", "finite", "small", "reads_swap", "not_mine")},
    }
    assert (found["encoder::finite"].message, found["encoder::finite"].evidence) == ("no head", "numeric")
    assert found["alpha::finite"].message == "with a head"
    assert found["encoder::small"].message == "too large"
    assert found["encoder::reads_swap"].reason == found["encoder::output_shape"].reason != ""
    assert found["encoder::not_mine"].reason == "not_mine"
    assert found["refused::finite"].reason == "zoo_refused"


def test_the_check_is_isolated_and_expectations_apply(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(CHECKS)
    (project.path / "testzoo.toml").write_text(
        '[[expect]]\nmodels = "encoder"\nchecks = "small"\noutcome = "failed"\nreason = "it is large"\n',
        encoding="utf-8",
    )
    flags = ["--headswap-zoo=testzoo", "--headswap-checks=finite,small", "--headswap-expectations=testzoo.toml"]
    project.runpytest_inprocess(*flags, "--headswap-models=crashing,encoder")
    assert {nodeid: item.outcome for nodeid, item in journal().items()} == {
        "testzoo::crashing::finite": "crashed",
        "testzoo::crashing::small": "failed",
        "testzoo::encoder::finite": "passed",
        "testzoo::encoder::small": "xfailed",
    }


def test_abstract_evidence_builds_the_model_without_values(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(CHECKS)
    project.runpytest_inprocess("testzoo::encoder::small", "--headswap-evidence=abstract")
    (item,) = journal().values()
    assert (item.outcome, item.evidence) == ("failed", "abstract")


class Encoder(nn.Module):
    """A model without a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer = nn.Linear(8, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.stem(x)
        return features + self.layer(features)  # type: ignore[no-any-return]


def _no_values_are_negative(case: Case) -> None:
    if case.forward().min() < 0:
        raise CheckFailed("negative values")


def test_check_headswap_runs_it_and_leaves_the_model_as_it_was() -> None:
    model = Encoder().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mine = Check("no_negative", _no_values_are_negative, needs_head=False)
    own, skipped = check_headswap(model, example_inputs=torch.randn(2, 8), checks=[mine, "output_shape"])
    assert {own.check: own.outcome, skipped.check: skipped.outcome} == {
        "no_negative": "failed",
        "output_shape": "skipped",
    }
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_parametrize_with_checks_runs_it(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_models="""
        import torch
        from torch import nn
        from pytest_headswap import Check, parametrize_with_checks

        class Double(nn.Module):
            def forward(self, x):
                return x * 2

        def has_no_head(case):
            assert case.no_head is not None

        CHECKS = [Check("has_no_head", has_no_head, needs_head=False), "output_shape"]

        @parametrize_with_checks([Double()], checks=CHECKS, example_inputs=torch.ones(2, 8))
        def test_model(model, check):
            check(model)
        """
    )
    project.runpytest_inprocess("test_models.py").assert_outcomes(passed=1, skipped=1)
