"""Models run in a spawned child process where a fork is impossible or not wanted, with the same outcomes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from pytest_headswap.results import Result
from tests.isolation.test_isolation import FAULTS

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

ZOO = "--headswap-zoo=testzoo"
SPAWN = "--headswap-isolation=spawn"

WHERE = """
import multiprocessing, warnings

def pytest_headswap_checks(config):
    return {"where": lambda case: type(multiprocessing.current_process()).__name__, "own": own}

def own(case):
    assert case.spec.name != "sound_001", "found by a check of the project"
"""

MODELS = """
def leaving():
    sys.exit(3)

def interrupted():
    raise KeyboardInterrupt

def exiting():
    os._exit(5)

def talking():
    print("a word", flush=True)
    warnings.warn("an omen")
    torch.set_num_threads(3)
    return Net()

class Clashing(Net):
    def forward(self, x):
        raise Clash("a class of the conftest")

class Clash(Exception):
    pass

def pytest_headswap_case(config, case):
    if case.spec.name == "sound_000":
        raise ValueError(f"a hook sees {config.getoption('headswap_checks')}")

SPECS = {
    **FAULTY,
    **{name: dict(build=Net, build_native=Net) for name in ("sound_000", "sound_001", "sound_002")},
    "clashing": dict(build=Clashing),
    "doubled": dict(build=Doubled),
    "exiting": dict(build=exiting),
    "interrupted": dict(build=interrupted),
    "leaving": dict(build=leaving),
    "talking": dict(build=talking),
}
"""


def plain(text: str) -> str:
    """Return a message without what differs between two runs: sizes, addresses and lines of a loop."""
    return re.sub(r"\d+(\.\d+)? MiB|0x[0-9a-f]+|:\d+\)", "N", text)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a fork is compared")
def test_a_spawned_process_gives_the_outcomes_of_a_forked_one(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(FAULTS + WHERE + MODELS)
    checks = "--headswap-checks=where,own,output_shape"
    limits = ("--headswap-timeout=8", "--headswap-memory-limit=400MiB")
    runs = {}
    for kind, workers in (("fork", ()), ("spawn", ("-n", "2"))):
        folder = f"--headswap-report={kind}"
        done = project.runpytest_subprocess(ZOO, checks, *limits, f"--headswap-isolation={kind}", folder, *workers)
        assert done.ret == pytest.ExitCode.TESTS_FAILED
        assert "without limits" not in done.stdout.str()
        runs[kind] = journal(kind)
    ran = {
        kind: {item.message for item in results.values() if item.check == "where" and item.outcome == "passed"}
        for kind, results in runs.items()
    }
    assert {text.split("; ")[0] for text in ran["fork"]} == {"ForkProcess"}
    assert {text.split("; ")[0] for text in ran["spawn"]} == {"SpawnProcess"}
    forked, spawned = (
        {
            test: (item.outcome, item.reason, item.evidence, plain(item.message))
            for test, item in results.items()
            if item.check != "where"
        }
        for results in runs.values()
    )
    assert spawned == forked
    outcomes = {item.model: item.outcome for item in runs["spawn"].values() if item.check == "output_shape"}
    assert outcomes["eater"] == outcomes["exiting"] == outcomes["killer"] == "crashed"
    assert outcomes["leaving"] == outcomes["interrupted"] == outcomes["clashing"] == outcomes["sound_000"] == "error"
    assert outcomes["hanger"] == "timeout"
    assert outcomes["doubled"] == "skipped"
    assert outcomes["sound_002"] == outcomes["talking"] == "passed"
    assert "torch.get_num_threads() is 3" in spawned["testzoo::talking::output_shape"][-1]
    assert spawned["testzoo::sound_001::own"][:2] == ("error", "")
    assert "a hook sees where,own,output_shape" in spawned["testzoo::sound_000::own"][-1]


def test_a_spawned_process_finds_a_zoo_in_a_file_and_checks_of_a_plugin(
    project: pytest.Pytester, journal: Journal
) -> None:
    project.makepyfile(
        models="from torch import nn\nclass Net(nn.Linear):\n    def __init__(self, num_classes=10):\n"
        "        super().__init__(8, num_classes)\nZOO = {'linear': Net, 'other': lambda: nn.Linear(3, 4)}\n",
        more_checks=WHERE,
    )
    project.syspathinsert()
    done = project.runpytest_subprocess(
        *("-p", "more_checks", SPAWN, "-W", "error"), "models.py:ZOO::linear::where", "builtin::root_linear::where"
    )
    done.assert_outcomes(passed=2)
    assert {item.message for item in journal().values()} == {"SpawnProcess"}
    assert len(journal()) == 2


@pytest.mark.parametrize("why", ["no fork", "CUDA", "CUDA in the child"])
def test_models_run_in_a_spawned_process_if_a_fork_is_impossible(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    extend_conftest(WHERE)
    if why == "no fork":
        monkeypatch.delattr("os.fork")
    elif why == "CUDA":
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    else:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flags = ("--headswap-checks=where,metadata", "--headswap-models=alpha", "--headswap-device=cpu")
    project.runpytest_inprocess(ZOO, *flags).assert_outcomes(passed=2)
    assert journal()["testzoo::alpha::where"].message == "SpawnProcess"


def test_a_fork_that_is_impossible_is_refused(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.fork")
    done = project.runpytest_inprocess(ZOO, "--headswap-isolation=fork")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(
        ["ERROR: --headswap-isolation=fork: this system cannot fork processes. Use spawn or auto"]
    )
    done = project.runpytest_inprocess(ZOO, "--headswap-isolation=spwan")
    done.stderr.fnmatch_lines(["ERROR: --headswap-isolation must be one of auto, fork, spawn, not 'spwan'*spawn?*"])


def test_a_conftest_that_fails_in_a_spawned_process_is_one_true_warning(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(WHERE + "if multiprocessing.parent_process():\n    raise LookupError('no parent here')")
    done = project.runpytest_subprocess(ZOO, SPAWN, "--headswap-checks=where", "--headswap-models=alpha,lonely")
    done.assert_outcomes(passed=2, warnings=1)
    done.stdout.fnmatch_lines(["*models run in the pytest process, without limits*LookupError: no parent here*"])


def test_a_script_that_calls_pytest_is_not_run_again_in_a_spawned_process(project: pytest.Pytester) -> None:
    project.path.joinpath("script.py").write_text(
        "import pytest\nprint('the script runs')\n"
        f"pytest.main(['{ZOO}', '{SPAWN}', '--headswap-checks=metadata', '--headswap-models=alpha'])\n"
    )
    done = project.run(sys.executable, "script.py")
    done.assert_outcomes(passed=1)
    assert done.stdout.str().count("the script runs") == 1


WINDOWS = """
import os, signal, sys, time, traceback
import multiprocessing.connection, multiprocessing.context, multiprocessing.reduction, multiprocessing.util
import psutil, torch
import pytest_headswap.harness.check_model
for module, names in {
    os: ("fork", "killpg", "setpgid", "getppid", "WNOHANG", "waitstatus_to_exitcode"),
    signal: ("SIGUSR1", "SIGKILL", "pthread_sigmask", "setitimer", "ITIMER_REAL"),
}.items():
    for name in names:
        delattr(module, name)
sys.platform = "win32"
sys.modules["resource"] = None
from pytest_headswap.isolation import executor, subprocess_executor
from pytest_headswap.isolation.global_state import GlobalState
from pytest_headswap.isolation.process_error import process_died
state = GlobalState()
assert not state.changes()
state.restore()
print(process_died(3221225477, "in a check", "", 1.0))
executor.warn_unsupported()
"""


def test_isolation_can_be_imported_without_what_windows_lacks() -> None:
    done = subprocess.run([sys.executable, "-c", WINDOWS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the process of the model ended with exit status 3221225477 in a check\n"
    assert "UserWarning: headswap: on this system, results do not show processes" in done.stderr
    assert "the location of a timeout in the code, changed limits of the process" in done.stderr
