"""Test `parametrize_with_checks`: one test per check, one case per model, and an unchanged model for other tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Extend = Callable[[str], None]
Builds = Callable[[], list[str]]

HEAD = """
import pytest
import torch
from torch import nn
from pytest_headswap import Check, CheckFailed, CheckSkipped, ModelSpec, parametrize_with_checks

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(8, 16)
        self.fc = nn.Linear(16, 10)
    def forward(self, x):
        return self.fc(self.backbone(x).relu())

ROWS = torch.zeros(2, 8)
THREE = "output_shape,native_parity,gradient_flow"
"""
TEST = "def test_headswap(model, check):\n    check(model)\n"


def _run(project: pytest.Pytester, text: str, *flags: str) -> pytest.RunResult:
    project.makepyfile(test_zoo=HEAD + text)
    return project.runpytest_inprocess("test_zoo.py", *flags)


def _listed(project: pytest.Pytester, text: str, *flags: str) -> list[str]:
    result = _run(project, text, "--collect-only", "-q", *flags)
    return [line.partition("test_zoo.py::")[2] for line in result.stdout.lines if "::" in line]


MANY = f"""
@parametrize_with_checks([Net(), "testzoo:alpha", ModelSpec("spec", Net)], 5, example_inputs=ROWS, checks=THREE)
{TEST}"""


def test_each_check_of_each_model_is_a_test(project: pytest.Pytester) -> None:
    models = ("models::Net", "testzoo::alpha", "models::spec")
    checks = ("output_shape", "native_parity", "gradient_flow")
    listed = _listed(project, MANY)
    assert set(listed) == {f"test_headswap[{model}::{check}]" for model in models for check in checks}
    assert [name.split("[")[1].rpartition("::")[0] for name in listed] == [model for model in models for _ in checks]
    _run(project, MANY, "--strict-markers").assert_outcomes(passed=7, skipped=2)  # skips native_parity of two models


def test_all_checks_run_by_default(project: pytest.Pytester) -> None:
    from pytest_headswap.checks import CHECKS

    assert len(_listed(project, f"@parametrize_with_checks('builtin:alias')\n{TEST}")) == len(CHECKS)


def test_collection_builds_no_model_and_checks_share_one(project: pytest.Pytester, builds: Builds) -> None:
    text = f"@parametrize_with_checks(['testzoo:alpha', 'testzoo:mismatched'], checks=THREE)\n{TEST}"
    assert len(_listed(project, text)) == 6
    assert builds() == []
    _run(project, text).assert_outcomes(passed=5, failed=1)
    assert builds() == ["alpha", "mismatched"]


def test_models_with_the_same_name_get_numbered_ids(project: pytest.Pytester) -> None:
    text = f"@parametrize_with_checks([Net(), Net()], example_inputs=ROWS, checks='output_shape')\n{TEST}"
    assert _listed(project, text) == [
        "test_headswap[models::Net::output_shape]",
        "test_headswap[models::Net_2::output_shape]",
    ]
    _run(project, text).assert_outcomes(passed=2)


def test_fault_is_a_failure_without_internal_frames(project: pytest.Pytester) -> None:
    text = f"@parametrize_with_checks('testzoo:mismatched', checks='native_parity')\n{TEST}"
    result = _run(project, text)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">       check(model)", "E       *CheckFailed: the state_dict differs from *"])
    assert "pytest_headswap/" not in result.stdout.str()
    assert "native_parity.py" not in result.stdout.str()


def test_check_that_does_not_apply_is_skipped_with_its_reason(project: pytest.Pytester) -> None:
    text = f"@parametrize_with_checks(['testzoo:doubled', 'testzoo:lonely'], checks='native_parity')\n{TEST}"
    result = _run(project, text, "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines_random(["SKIPPED*?output_from_input? *", "SKIPPED*?no_native? *"])


def test_model_that_cannot_be_built_fails_every_check_but_is_built_once(
    project: pytest.Pytester, builds: Builds
) -> None:
    text = f"@parametrize_with_checks('testzoo:unbuildable', checks=THREE)\n{TEST}"
    result = _run(project, text)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["E   *ValueError: no such depth"])
    _run(project, f"@parametrize_with_checks('testzoo:unbuildable', checks='output_shape')\n{TEST}")
    assert len(builds()) == 2 * (len(builds()) // 2), "as often for three checks as for one"


OWN = """
NET = Net()
FC = NET.fc
PARTS = dict(example_inputs=ROWS, checks=THREE)

@parametrize_with_checks([NET], **PARTS)
def test_headswap(model, check):
    assert model is NET
    check(model)

def test_of_the_same_model():
    assert NET.fc is FC
    assert NET.fc.out_features == 10
    assert all(parameter.requires_grad for parameter in NET.parameters())

@parametrize_with_checks([NET], 3, **PARTS)
def test_headswap_again(model, check):
    check(model)

def test_of_the_same_model_at_the_end():
    assert NET.fc is FC
    assert NET.fc.out_features == 10
"""


def test_users_model_keeps_its_old_head_in_other_tests(project: pytest.Pytester) -> None:
    _run(project, OWN).assert_outcomes(passed=6, skipped=2)


def test_users_model_gets_its_old_head_back_after_a_failure(project: pytest.Pytester) -> None:
    failing = "def refusing(case):\n    raise CheckFailed('never')\n"
    text = failing + OWN.replace("checks=THREE", "checks=[Check('refusing', refusing)]")
    result = _run(project, text)
    result.assert_outcomes(passed=2, failed=2)


def test_users_model_gets_its_old_head_back_after_exitfirst(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(
        "def pytest_sessionfinish(session):\n"
        "    session.config.net = session.items[0].callspec.params['model']\n"
        "@pytest.hookimpl(trylast=True)\n"
        "def pytest_unconfigure(config):\n"
        "    print('the head has', config.net.fc.out_features)\n"
    )
    failing = "def refusing(case):\n    raise CheckFailed('never')\n"
    text = failing + OWN.replace(
        "checks=THREE", "checks=[Check('refusing', refusing), 'output_shape', 'gradient_flow']"
    )
    result = _run(project, text, "-x", "-s")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*the head has 10"])


def test_model_is_released_before_the_next_one_is_built(project: pytest.Pytester) -> None:
    text = f"""
import gc, weakref
gc.disable()
ALIVE = weakref.WeakSet()

class Watched(Net):
    def __init__(self):
        super().__init__()
        assert not ALIVE, "the last model still lives"
        ALIVE.add(self)

def refusing(case):
    raise CheckFailed("never")

SPECS = [ModelSpec(f"m{{i}}", Watched) for i in range(3)]

@parametrize_with_checks(SPECS, example_inputs=ROWS, checks=["output_shape", Check("refusing", refusing)])
{TEST}"""
    project.makepyfile(test_zoo=HEAD + text)
    project.runpytest_subprocess("test_zoo.py").assert_outcomes(passed=3, failed=3)


def test_check_called_with_another_model_is_an_error(project: pytest.Pytester) -> None:
    text = "@parametrize_with_checks([Net()], checks='output_shape')\ndef test_a(model, check):\n    check(Net())"
    _run(project, text).stdout.fnmatch_lines(["E *TypeError: call check(model) with the `model` argument *"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'testzoo:alpa'", "*ZooError: unknown model 'alpa' in zoo 'testzoo': did you mean alpha*"),
        ("[Net]", "*TypeError: *pass Net() and not the class*"),
        ("[Net()], 0", "*num_classes must be a positive whole number, not 0*"),
        ("[Net()], checks='output'", "*unknown check 'output' in checks*"),
    ],
)
def test_invalid_argument_is_a_collection_error(project: pytest.Pytester, arguments: str, message: str) -> None:
    result = _run(project, f"@parametrize_with_checks({arguments})\n{TEST}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"E *{message}"])


def test_selection_and_xdist_work(project: pytest.Pytester) -> None:
    text = f"@parametrize_with_checks(['testzoo:alpha', 'testzoo:mismatched'], checks=THREE)\n{TEST}"
    assert _listed(project, text, "-k", "alpha and gradient") == ["test_headswap[testzoo::alpha::gradient_flow]"]
    _run(project, text).assert_outcomes(passed=5, failed=1)
    _run(project, text, "--lf").assert_outcomes(failed=1)
    pytest.importorskip("xdist")
    project.runpytest_subprocess("test_zoo.py", "-n", "2").assert_outcomes(passed=5, failed=1)


def test_tests_run_without_the_plugin(project: pytest.Pytester) -> None:
    text = f"@parametrize_with_checks('builtin:alias', checks=THREE)\n{TEST}"
    project.makeconftest("")
    project.makepyfile(test_zoo=HEAD + text)
    project.runpytest_subprocess("test_zoo.py", "-p", "no:headswap").assert_outcomes(passed=3)
