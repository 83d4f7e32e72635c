"""The result of a check is never better than pytest's outcome, and a resumed run agrees with the first."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from pytest_headswap.results import Result

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

ZOO = "--headswap-zoo=testzoo"
ALPHA = "--headswap-models=alpha"

# Each name is a check of the user's. `IN_PROCESS` keeps models in the process of pytest, as on systems without fork.
ENDINGS = """
import asyncio, sys, unittest

class Speechless(Exception):
    def __str__(self):
        raise ValueError("no words")

class Speechlessly(Exception):
    def __str__(self):
        sys.exit("no words")

class Numbered(Exception):
    def __str__(self):
        return 7

class Unsendable(Exception):
    def __init__(self, one, two):
        super().__init__(one)
        self.kept = lambda: one

class Secretive(Exception):
    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")

def raising(error):
    def check(case):
        raise error
    return check

def generating(case):
    yield "this never runs"

async def waiting(case):
    return "nor does this"

ENDINGS = {
    "exits": lambda case: sys.exit(0),
    "exits_with_text": lambda case: sys.exit("enough"),
    "leaves_generator": raising(GeneratorExit()),
    "is_cancelled": raising(asyncio.CancelledError()),
    "breaks_pipe": raising(BrokenPipeError("the pipe is broken")),
    "speechless": raising(Speechless()),
    "speechlessly": raising(Speechlessly()),
    "numbered": raising(Numbered()),
    "unsendable": lambda case: (_ for _ in ()).throw(Unsendable("one", "two")),
    "secretive": raising(Secretive("hidden")),
    "returns_dict": lambda case: {"a": 1},
    "returns_false": lambda case: False,
    "returns_zero": lambda case: 0,
    "returns_tensor": lambda case: torch.zeros(()),
    "generates": generating,
    "waits": waiting,
    "fails": lambda case: pytest.fail("not good enough"),
    "fails_untraced": lambda case: pytest.fail("still not", pytrace=False),
    "skips": lambda case: pytest.skip("not on this machine"),
    "needs_module": lambda case: pytest.importorskip("no_such_module"),
    "skips_as_unittest": raising(unittest.SkipTest("as unittest does")),
    "is_xfail": lambda case: pytest.xfail("known"),
    "passes": lambda case: None,
}

def pytest_headswap_checks(config):
    return ENDINGS
"""
IN_PROCESS = """
from pytest_headswap.plugin.collection import select_executor
select_executor.why_not_isolated = lambda config: "for this test"
"""


@pytest.fixture
def in_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether models are in the process of pytest, as on systems that cannot copy a process."""
    if request.param:
        monkeypatch.setattr(
            "pytest_headswap.plugin.collection.select_executor.why_not_isolated", lambda config: "for this test"
        )
    return bool(request.param)


BOTH = pytest.mark.parametrize("in_process", [False, True], indirect=True, ids=["child", "in-process"])

NAMES = {
    "exits": ("error", "SystemExit: 0"),
    "exits_with_text": ("error", "SystemExit: enough"),
    "leaves_generator": ("error", "GeneratorExit"),
    "is_cancelled": ("error", "CancelledError"),
    "breaks_pipe": ("error", "BrokenPipeError: the pipe is broken"),
    "speechless": ("error", "Speechless: its str() raises ValueError"),
    "speechlessly": ("error", "Speechlessly: its str() raises SystemExit"),
    "numbered": ("error", "Numbered: its str() raises TypeError"),
    "unsendable": ("error", "Unsendable: one"),
    "secretive": ("error", "Secretive: hidden"),
    "returns_dict": ("error", "TypeError: the check returns_dict returned dict. A check returns None or a note*"),
    "returns_false": ("error", "TypeError: the check returns_false returned bool. *"),
    "returns_zero": ("error", "TypeError: the check returns_zero returned int. *"),
    "returns_tensor": ("error", "TypeError: the check returns_tensor returned Tensor. *"),
    "generates": ("error", "TypeError: the check generates returned generator. *"),
    "waits": ("error", "TypeError: the check waits returned coroutine. *"),
    "fails": ("failed", "Failed: not good enough"),
    "fails_untraced": ("failed", "Failed: still not"),
    "skips": ("skipped", "not on this machine"),
    "needs_module": ("skipped", "could not import 'no_such_module': *"),
    "skips_as_unittest": ("skipped", "as unittest does"),
    "is_xfail": ("xfailed", "*known"),
    "passes": ("passed", ""),
}
CHECKS = f"--headswap-checks={','.join(NAMES)}"


def _summary(project: pytest.Pytester) -> str:
    return (project.path / "headswap-report" / "summary.md").read_text(encoding="utf-8")


def _assert_same(results: dict[str, Result], expected: dict[str, tuple[str, str]]) -> None:
    found = {item.check: item for item in results.values()}
    assert {check: item.outcome for check, item in found.items()} == {key: value[0] for key, value in expected.items()}
    matcher = pytest.LineMatcher([f"{check} {item.message}" for check, item in found.items()])
    matcher.fnmatch_lines_random([f"{check} {message}" for check, (_, message) in expected.items()])


@pytest.mark.parametrize("where", ["child", "in-process", "xdist"])
def test_the_outcome_of_a_check_agrees_with_pytest(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, where: str
) -> None:
    extend_conftest(ENDINGS + (IN_PROCESS if where == "in-process" else ""))
    flags = [ZOO, ALPHA, CHECKS]
    if where == "xdist":
        pytest.importorskip("xdist")
        flags += ["-n", "1"]
    run = project.runpytest_inprocess if where == "child" else project.runpytest_subprocess
    result = run(*flags)
    result.assert_outcomes(passed=1, failed=18, skipped=3, xfailed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    _assert_same(journal(), NAMES)
    assert "Nothing failed" not in _summary(project)
    assert run(*flags, "--headswap-resume").ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("name", sorted(name for name, (outcome, _) in NAMES.items() if outcome in ("error", "failed")))
def test_a_resumed_run_has_the_same_exit_status(project: pytest.Pytester, extend_conftest: Extend, name: str) -> None:
    extend_conftest(ENDINGS)
    flags = (ZOO, ALPHA, f"--headswap-checks={name}")
    assert project.runpytest_inprocess(*flags).ret == pytest.ExitCode.TESTS_FAILED
    resumed = project.runpytest_inprocess(*flags, "--headswap-resume")
    resumed.assert_outcomes(deselected=1)
    assert resumed.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no exception groups")
@BOTH
def test_a_group_of_exceptions_is_an_error_that_names_its_members(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, in_process: bool
) -> None:
    extend_conftest(
        "def grouped(case):\n"
        "    raise BaseExceptionGroup('several', [KeyboardInterrupt(), ValueError('one'), SystemExit(2)])\n"
        "class Grouped(Net):\n"
        "    def forward(self, x):\n"
        "        raise BaseExceptionGroup('at once', [SystemExit(2)])\n"
        "SPECS = {'grouped': dict(build=Grouped), 'sound': dict(build=Net)}\n"
        "def pytest_headswap_checks(config):\n"
        "    return {'grouped': grouped}\n"
    )
    result = project.runpytest_inprocess(ZOO, "--headswap-checks=grouped")
    result.assert_outcomes(failed=1, errors=1)
    model, check = journal().values()
    assert (model.outcome, check.outcome) == ("error", "error")
    assert check.message == (
        "BaseExceptionGroup: several (3 sub-exceptions): KeyboardInterrupt, ValueError: one, SystemExit: 2"
    )
    assert "at once (1 sub-exception)" in model.message


ENDED_BUILDS = """
def build(error):
    def make():
        raise error
    return make

class Leaving(Net):
    def forward(self, x):
        sys.exit(0)

SPECS = {
    "a_leaving": dict(build=Leaving),
    "b_exits": dict(build=build(SystemExit(0))),
    "c_generator": dict(build=build(GeneratorExit())),
    "d_cancelled": dict(build=build(asyncio.CancelledError())),
    "e_speechless": dict(build=build(Speechless())),
    "f_secretive": dict(build=build(Secretive("hidden"))),
    "g_skips": dict(build=lambda: pytest.skip("not here")),
    "h_needs": dict(build=lambda: pytest.importorskip("no_such_module")),
    "i_fails": dict(build=lambda: pytest.fail("not this one")),
    "sound": dict(build=Net),
}
"""


@BOTH
def test_every_ending_of_a_build_is_a_result_of_each_check(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, in_process: bool
) -> None:
    extend_conftest(ENDINGS + ENDED_BUILDS)
    result = project.runpytest_inprocess(ZOO, "--headswap-checks=output_shape,passes")
    result.assert_outcomes(passed=2, errors=14, skipped=4)
    outcomes: dict[str, list[str]] = {}
    messages: dict[str, set[str]] = {}
    for item in journal().values():
        outcomes.setdefault(item.model, []).append(item.outcome)
        messages.setdefault(item.model, set()).add(item.message)
    skipped = {"g_skips", "h_needs"}
    assert outcomes == {
        model: ["passed"] * 2 if model == "sound" else ["skipped"] * 2 if model in skipped else ["error"] * 2
        for model in outcomes
    }
    assert len(outcomes) == 10
    assert messages["b_exits"] == {"SystemExit: 0"}
    assert messages["c_generator"] == {"GeneratorExit"}
    assert messages["e_speechless"] == {"Speechless: its str() raises ValueError"}
    assert messages["g_skips"] == {"not here"}
    assert messages["i_fails"] == {"Failed: not this one"}


ALARM = """
import signal, threading, time

def out_of_time(number, frame):
    pytest.fail("Timeout (>0.5s) from pytest-timeout.")

def pytest_runtest_protocol(item):
    signal.signal(signal.SIGALRM, out_of_time)

def slow(case):
    time.sleep(1.5)

def pytest_runtest_call(item):
    if item.name == "slow":
        signal.setitimer(signal.ITIMER_REAL, 0.3)

def pytest_headswap_checks(config):
    return {"slow": slow, "quick": lambda case: None}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
@BOTH
def test_a_timeout_of_another_plugin_fails_one_check_and_the_next_one_runs(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, in_process: bool
) -> None:
    extend_conftest(ALARM + (IN_PROCESS if in_process else ""))
    result = project.runpytest_subprocess(ZOO, ALPHA, "--headswap-checks=slow,quick")
    result.assert_outcomes(failed=1, passed=1)
    slow, quick = journal().values()
    assert (slow.outcome, slow.message) == ("failed", "Failed: Timeout (>0.5s) from pytest-timeout.")
    assert (quick.outcome, quick.message) == ("passed", "")
    assert "Nothing failed" not in _summary(project)


REBUILT = """
import signal
COUNT = os.path.join(os.path.dirname(__file__), "rebuilds.txt")

def only_once(then):
    def build():
        with open(COUNT, "a") as file:
            file.write("x")
        return Net() if os.path.getsize(COUNT) <= 1 else then()
    return build

def cannot():
    raise RuntimeError("not again")

def dying(case):
    os.kill(os.getpid(), signal.SIGKILL)

def pytest_headswap_checks(config):
    return {"dying": dying, "after": lambda case: None, "last": lambda case: None}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="models have a process of their own on Linux alone")
@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("cannot", "RuntimeError: not again"),
        ("lambda: sys.exit(0)", "SystemExit: 0"),
        ("Doubled", "the model was rebuilt after its process was lost, and has no head: [[]output_from_input] *"),
    ],
)
def test_a_model_that_cannot_be_rebuilt_after_a_crash_is_an_error(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, then: str, message: str
) -> None:
    extend_conftest(f"import sys\n{REBUILT}\nSPECS = {{'once': dict(build=only_once({then}))}}")
    result = project.runpytest_inprocess(ZOO, "--headswap-checks=dying,after,last")
    result.assert_outcomes(failed=3)
    dying, *others = journal().values()
    assert dying.outcome == "crashed"
    assert [item.outcome for item in others] == ["error", "error"]
    pytest.LineMatcher([item.message for item in others]).fnmatch_lines([message] * 2)


HOOKED = """
@pytest.hookimpl({order}, wrapper=True)
def {hook}(item{more}):
    outcome = yield
    {body}
    return outcome
"""


@pytest.mark.parametrize(
    ("hook", "more", "body", "message"),
    [
        ("pytest_runtest_call", "", "raise OSError('the disk is gone')", "OSError: the disk is gone"),
        ("pytest_runtest_call", "", "pytest.fail('the house rules')", "Failed: the house rules"),
        ("pytest_runtest_makereport", ", call", "outcome.outcome = 'failed'", "failed, without a message"),
        ("pytest_runtest_makereport", ", call", "outcome.outcome, outcome.longrepr = 'failed', 'no'", "no"),
    ],
)
@pytest.mark.parametrize("order", ["tryfirst=True", "trylast=True"])
def test_a_passed_check_that_a_hook_fails_is_a_failure(
    project: pytest.Pytester,
    extend_conftest: Extend,
    journal: Journal,
    hook: str,
    more: str,
    body: str,
    message: str,
    order: str,
) -> None:
    extend_conftest(HOOKED.format(order=order, hook=hook, more=more, body=body))
    result = project.runpytest_inprocess(ZOO, ALPHA, "--headswap-checks=output_shape")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (item,) = journal().values()
    assert item.needs_attention
    assert message in (item.message or "failed, without a message")


def test_a_skip_in_the_teardown_does_not_hide_a_failure(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest("def pytest_runtest_teardown(item):\n    pytest.skip('too late')")
    project.runpytest_inprocess(ZOO, "--headswap-models=mismatched", "--headswap-checks=native_parity")
    (item,) = journal().values()
    assert item.outcome == "failed"
    assert item.message.startswith("the state_dict differs")


def test_a_report_created_by_another_plugin_is_a_result_too(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "@pytest.hookimpl(tryfirst=True, wrapper=True)\n"
        "def pytest_runtest_makereport(item, call):\n"
        "    yield\n"
        "    return pytest.TestReport.from_item_and_call(item, call)\n"
    )
    result = project.runpytest_inprocess(
        ZOO, "--headswap-models=alpha,mismatched,doubled", "--headswap-checks=native_parity"
    )
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    assert {item.model: item.outcome for item in journal().values()} == {
        "alpha": "passed",
        "doubled": "skipped",
        "mismatched": "failed",
    }


def test_a_pass_forbidden_by_a_strict_mark_fails_the_resumed_run_too(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items:\n"
        "        item.add_marker(pytest.mark.xfail(reason='known', strict=True))\n"
    )
    flags = (ZOO, ALPHA, "--headswap-checks=native_parity")
    assert project.runpytest_inprocess(*flags).ret == pytest.ExitCode.TESTS_FAILED
    (item,) = journal().values()
    assert (item.outcome, item.needs_attention, item.expectation) == ("xpassed", True, "[XPASS(strict)] known")
    assert "Nothing failed" not in _summary(project)
    assert project.runpytest_inprocess(*flags, "--headswap-resume").ret == pytest.ExitCode.TESTS_FAILED
