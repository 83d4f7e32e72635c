"""`parametrize_with_checks`: a test a check, one built case a model, and the user's own model back as it was."""

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


def test_there_is_a_test_for_each_check_of_each_model(project: pytest.Pytester) -> None:
    models = ("models::Net", "testzoo::alpha", "models::spec")
    checks = ("output_shape", "native_parity", "gradient_flow")
    listed = _listed(project, MANY)
    assert set(listed) == {f"test_headswap[{model}::{check}]" for model in models for check in checks}
    assert [name.split("[")[1].rpartition("::")[0] for name in listed] == [model for model in models for _ in checks]
    _run(project, MANY, "--strict-markers").assert_outcomes(passed=7, skipped=2)  # two have no native model


def test_all_checks_come_without_naming_them(project: pytest.Pytester) -> None:
    from pytest_headswap.checks import CHECKS

    assert len(_listed(project, f"@parametrize_with_checks('builtin:alias')\n{TEST}")) == len(CHECKS)


def test_nothing_is_built_by_a_listing_and_a_model_once_for_its_checks(
    project: pytest.Pytester, builds: Builds
) -> None:
    text = f"@parametrize_with_checks(['testzoo:alpha', 'testzoo:mismatched'], checks=THREE)\n{TEST}"
    assert len(_listed(project, text)) == 6
    assert builds() == []
    _run(project, text).assert_outcomes(passed=5, failed=1)
    assert builds() == ["alpha", "mismatched"]


def test_models_of_one_name_are_distinguished(project: pytest.Pytester) -> None:
    text = f"@parametrize_with_checks([Net(), Net()], example_inputs=ROWS, checks='output_shape')\n{TEST}"
    assert _listed(project, text) == [
        "test_headswap[models::Net::output_shape]",
        "test_headswap[models::Net_2::output_shape]",
    ]
    _run(project, text).assert_outcomes(passed=2)


def test_a_fault_is_a_failure_without_the_way_that_led_to_it(project: pytest.Pytester) -> None:
    text = f"@parametrize_with_checks('testzoo:mismatched', checks='native_parity')\n{TEST}"
    result = _run(project, text)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">       check(model)", "E       *CheckFailed: the state_dict differs from *"])
    assert "pytest_headswap/" not in result.stdout.str()
    assert "native_parity.py" not in result.stdout.str()


def test_what_does_not_apply_is_skipped_with_its_reason(project: pytest.Pytester) -> None:
    text = f"@parametrize_with_checks(['testzoo:doubled', 'testzoo:lonely'], checks='native_parity')\n{TEST}"
    result = _run(project, text, "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines_random(["SKIPPED*?output_from_input? *", "SKIPPED*?no_native? *"])


def test_a_model_that_cannot_be_built_fails_in_each_check_and_is_tried_once(
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


def test_a_model_that_was_passed_in_has_its_old_head_for_all_other_tests(project: pytest.Pytester) -> None:
    _run(project, OWN).assert_outcomes(passed=6, skipped=2)


def test_it_has_its_old_head_back_also_after_a_failure(project: pytest.Pytester) -> None:
    failing = "def refusing(case):\n    raise CheckFailed('never')\n"
    text = failing + OWN.replace("checks=THREE", "checks=[Check('refusing', refusing)]")
    result = _run(project, text)
    result.assert_outcomes(passed=2, failed=2)


def test_a_run_that_ends_early_gives_it_back_too(project: pytest.Pytester, extend_conftest: Extend) -> None:
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


def test_a_model_is_let_go_before_the_next_one_is_built(project: pytest.Pytester) -> None:
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


def test_another_model_than_the_one_of_the_test_is_refused(project: pytest.Pytester) -> None:
    text = "@parametrize_with_checks([Net()], checks='output_shape')\ndef test_a(model, check):\n    check(Net())"
    _run(project, text).stdout.fnmatch_lines(["E *TypeError: a check takes the model that the test was given *"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'testzoo:alpa'", "*ZooError: unknown model 'alpa' in zoo 'testzoo': did you mean alpha*"),
        ("[Net]", "*TypeError: *pass Net() and not the class*"),
        ("[Net()], 0", "*num_classes must be a positive whole number, not 0*"),
        ("[Net()], checks='output'", "*unknown check 'output' in checks*"),
    ],
)
def test_a_wrong_argument_is_an_error_of_collection(project: pytest.Pytester, arguments: str, message: str) -> None:
    result = _run(project, f"@parametrize_with_checks({arguments})\n{TEST}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"E *{message}"])


def test_the_usual_ways_of_selecting_and_xdist_work(project: pytest.Pytester) -> None:
    text = f"@parametrize_with_checks(['testzoo:alpha', 'testzoo:mismatched'], checks=THREE)\n{TEST}"
    assert _listed(project, text, "-k", "alpha and gradient") == ["test_headswap[testzoo::alpha::gradient_flow]"]
    _run(project, text).assert_outcomes(passed=5, failed=1)
    _run(project, text, "--lf").assert_outcomes(failed=1)
    pytest.importorskip("xdist")
    project.runpytest_subprocess("test_zoo.py", "-n", "2").assert_outcomes(passed=5, failed=1)


def test_without_the_plugin_the_tests_run_all_the_same(project: pytest.Pytester) -> None:
    text = f"@parametrize_with_checks('builtin:alias', checks=THREE)\n{TEST}"
    project.makeconftest("")
    project.makepyfile(test_zoo=HEAD + text)
    project.runpytest_subprocess("test_zoo.py", "-p", "no:headswap").assert_outcomes(passed=3)
