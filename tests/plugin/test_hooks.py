"""Other plugins add zoos and checks and receive results; their mistakes are reported with their name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_headswap import checks
from pytest_headswap.results import Result

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

USAGE_ERROR = pytest.ExitCode.USAGE_ERROR
ALPHA = ("--headswap-zoo=testzoo", "--headswap-models=alpha")
ONE = (*ALPHA, "--headswap-checks=output_shape")

ZOOS = """
def pytest_headswap_zoos(config):
    def late():
        raise RuntimeError("this zoo was read")
    return {"hooked": {"tiny": Net, "small": lambda: nn.Linear(8, 10)}, "listed": [ModelSpec("one", Net)], "late": late}
"""
CHECKS = """
from pytest_headswap import Check, CheckFailed, CheckSkipped

def small_head(case):
    size = sum(parameter.numel() for parameter in case.swap.parameters())
    if size > 100:
        raise CheckFailed(f"the head has {size} parameters")
    return f"{size} parameters"

def skipping(case):
    raise CheckSkipped("no_pixels", "it reads rows")

def raising(case):
    raise KeyError("pixels")

def quiet(case):
    return None

def pytest_headswap_checks(config):
    own = Check("quiet", quiet, evidence=lambda case: "my own eyes")
    return {"small_head": small_head, "skipping": skipping, "raising": raising, "quiet": own}
"""


def test_a_zoo_from_a_hook_is_selected_by_its_name(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(ZOOS)
    flags = ["--headswap-zoo=hooked", "--headswap-zoo=listed", "--headswap-checks=output_shape"]
    project.runpytest_inprocess(*flags).assert_outcomes(passed=3)
    assert list(journal()) == [
        "hooked::small::output_shape",
        "hooked::tiny::output_shape",
        "listed::one::output_shape",
    ]


def test_a_zoo_from_a_hook_is_loaded_only_when_selected(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(ZOOS)
    project.runpytest_inprocess(*ONE).assert_outcomes(passed=1)
    result = project.runpytest_inprocess("--headswap-zoo=late")
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines(["*--headswap-zoo: *'late' raised RuntimeError: this zoo was read*"])


def test_zoos_and_checks_from_hooks_run_on_xdist_workers(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    pytest.importorskip("xdist")
    extend_conftest(ZOOS + CHECKS)
    result = project.runpytest_subprocess(
        "--headswap-zoo=hooked", "--headswap-checks=output_shape,quiet,skipping", "-n", "2"
    )
    result.assert_outcomes(passed=4, skipped=2)
    assert {item.outcome for item in journal().values() if item.check == "quiet"} == {"passed"}


def test_a_check_from_a_hook_runs_after_the_builtin_ones_with_the_same_results(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(CHECKS)
    flags = [*ALPHA, "--headswap-num-classes=9", "--headswap-checks=quiet,raising,skipping,small_head,output_shape"]
    result = project.runpytest_inprocess(*flags)
    result.assert_outcomes(passed=2, failed=2, skipped=1)
    results = journal()
    assert list(results) == [
        f"testzoo::alpha::{check}" for check in ("output_shape", "small_head", "skipping", "raising", "quiet")
    ]
    _, small, skipping, raising, quiet = results.values()
    assert (small.outcome, small.message) == ("failed", "the head has 153 parameters")
    assert "--headswap-checks=small_head" in small.repro
    assert (skipping.outcome, skipping.reason, skipping.message) == (
        "skipped",
        "no_pixels",
        "[no_pixels] it reads rows",
    )
    assert (raising.outcome, raising.message) == ("error", "KeyError: 'pixels'")
    assert (quiet.outcome, quiet.message, quiet.evidence) == ("passed", "", "my own eyes")
    result.stdout.fnmatch_lines(["the head has 153 parameters", "*", "  skipped 1: ?no_pixels?"])

    project.runpytest_inprocess(*ALPHA, "--headswap-checks=small_head").assert_outcomes(failed=1)
    project.runpytest_inprocess(*ALPHA, "--headswap-num-classes=2", "-k", "small_head").assert_outcomes(passed=1)
    assert [item.message for item in journal().values()] == ["34 parameters"]


def test_all_checks_include_those_from_hooks(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(CHECKS)
    result = project.runpytest_inprocess(*ALPHA, "--collect-only", "-q")
    listed = [line.rpartition("::")[2] for line in result.stdout.lines if "::" in line]
    assert listed == [*checks.CHECKS, "small_head", "skipping", "raising", "quiet"]


OPT_IN = """
def pytest_headswap_checks(config):
    from pytest_headswap import Check
    return {"slow": Check("slow", lambda case: None, opt_in=True), "quick": lambda case: None}
"""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], [*checks.CHECKS, "quick"]),
        (["--headswap-checks=+slow"], [*checks.CHECKS, "slow", "quick"]),
        (["--headswap-checks=+slow,!quick"], [*checks.CHECKS, "slow"]),
        (["--headswap-checks=!metadata"], [*(name for name in checks.CHECKS if name != "metadata"), "quick"]),
        (["--headswap-checks=slow"], ["slow"]),
        (["testzoo::alpha::slow"], ["slow"]),
        (["testzoo::alpha::s*"], ["state_dict"]),
        (["testzoo::alpha::s*", "--headswap-checks=+slow"], ["state_dict", "slow"]),
    ],
    ids=str,
)
def test_an_opt_in_check_runs_only_if_it_is_named(
    project: pytest.Pytester, extend_conftest: Extend, flags: list[str], expected: list[str]
) -> None:
    extend_conftest(OPT_IN)
    zoo = [] if any("::" in flag for flag in flags) else ALPHA
    result = project.runpytest_inprocess(*zoo, *flags, "--collect-only", "-q")
    assert [line.rpartition("::")[2] for line in result.stdout.lines if "::" in line] == expected


WRONG = {
    "zoo that is there": (
        "pytest_headswap_zoos",
        "{'builtin': {'a': Net}}",
        "returns zoo 'builtin', which already exists: choose another name",
    ),
    "zoo without a name": (
        "pytest_headswap_zoos",
        "{'': {'a': Net}}",
        "returns a zoo named '': names must be non-empty text",
    ),
    "zoos as a list": ("pytest_headswap_zoos", "[{'a': Net}]", "returns list: it must return a mapping of names"),
    "check that is there": (
        "pytest_headswap_checks",
        "{'output_shape': print}",
        "returns check 'output_shape', which already exists: choose another name",
    ),
    "check with a bad name": (
        "pytest_headswap_checks",
        "{'my-check': print}",
        "returns a check named 'my-check': names are part of ids and must be identifiers*",
    ),
    "check without a text for a name": ("pytest_headswap_checks", "{3: print}", "returns a check named 3: *"),
    "check that cannot be called": (
        "pytest_headswap_checks",
        "{'mine': 3}",
        "returns 3 as 'mine': it must be a function*",
    ),
    "check under another name": (
        "pytest_headswap_checks",
        "{'mine': __import__('pytest_headswap').Check('yours', print)}",
        "returns check 'yours' under the name 'mine': use the same name",
    ),
}


@pytest.mark.parametrize(("hook", "value", "message"), WRONG.values(), ids=WRONG.keys())
def test_an_invalid_return_value_of_a_hook_ends_the_run_and_names_the_plugin(
    project: pytest.Pytester, extend_conftest: Extend, hook: str, value: str, message: str
) -> None:
    extend_conftest(f"def {hook}(config):\n    return {value}")
    result = project.runpytest_inprocess(*ONE)
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *conftest.py: {hook} {message}"])


@pytest.mark.parametrize(
    ("hook", "value", "what"),
    [("pytest_headswap_zoos", "{'a': Net}", "zoo"), ("pytest_headswap_checks", "print", "check")],
)
def test_two_plugins_cannot_use_the_same_name(
    project: pytest.Pytester, extend_conftest: Extend, hook: str, value: str, what: str
) -> None:
    extend_conftest(f"def {hook}(config):\n    return {{'mine': {value}}}")
    project.makepyfile(other_plugin=f"def {hook}(config):\n    return {{'mine': print}}")
    project.syspathinsert()
    result = project.runpytest_inprocess(*ONE, "-p", "other_plugin")
    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *{hook} returns {what} 'mine', which already exists (from *): choose*"])
    names = [line for line in result.stderr.lines if "which already exists" in line]
    assert "other_plugin" in names[0]
    assert "conftest.py" in names[0]


def test_a_name_can_be_used_again_in_a_later_run_of_the_process(
    project: pytest.Pytester, extend_conftest: Extend
) -> None:
    extend_conftest(ZOOS)
    for _ in range(2):
        flags = ["--headswap-zoo=hooked", "--headswap-checks=output_shape"]
        project.runpytest_inprocess(*flags).assert_outcomes(passed=2)


RESULTS = """
def pytest_headswap_result(config, result):
    lines = (config.rootpath / "headswap-report" / "results.jsonl").read_text().splitlines()
    assert f'"check": "{result.check}"' in lines[-1], "it is in the journal already"
    with (config.rootpath / "seen.txt").open("a") as file:
        file.write(f"{result.nodeid} {result.outcome} {hasattr(config, 'workerinput')}\\n")

def pytest_headswap_case(config, case):
    with (config.rootpath / "cases.txt").open("a") as file:
        file.write(f"{case.zoo} {case.spec.name} {case.num_classes} {hasattr(config, 'workerinput')}\\n")
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_hooks_get_each_result_in_the_controller_and_each_case_where_it_was_built(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, workers: int
) -> None:
    flags = ["--headswap-zoo=testzoo"]
    if workers:
        pytest.importorskip("xdist")
        flags += ["-n", str(workers)]
    extend_conftest(RESULTS)
    project.runpytest_subprocess(*flags)
    seen = (project.path / "seen.txt").read_text().splitlines()
    assert seen == [f"{item.nodeid} {item.outcome} False" for item in journal().values()]
    cases = sorted((project.path / "cases.txt").read_text().splitlines())
    swapped = sorted({item.model for item in journal().values() if item.heads})
    assert cases == [f"testzoo {model} 7 {workers > 0}" for model in swapped]


def test_an_exception_in_a_case_hook_is_an_error_of_the_model(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest("def pytest_headswap_case(config, case):\n    raise OSError('no place for notes')")
    project.runpytest_inprocess(*ONE).assert_outcomes(errors=1)
    assert {item.message for item in journal().values()} == {"OSError: no place for notes"}


def test_a_run_without_a_zoo_loads_neither_zoos_nor_checks(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        def pytest_headswap_zoos(config):
            return {"hooked": lambda: 1 / 0}

        def pytest_headswap_checks(config):
            raise AssertionError("nobody asked")
        """
    )
    project.makepyfile(test_own="import sys\ndef test_light():\n    assert 'torch' not in sys.modules")
    project.runpytest_subprocess().assert_outcomes(passed=1)
