"""Models run in several processes of this machine at the same time, with the outcomes of one process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from importlib.util import find_spec

import psutil
import pytest

from pytest_headswap.results import Result
from tests.isolation.test_isolation import FAULTS
from tests.isolation.test_ray import ONE, SLEEPING, ZOO, started, wait_for
from tests.isolation.test_spawned_process import MODELS, WHERE, plain

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

POOL = "--headswap-executor=local:2"


def outcomes(results: dict[str, Result]) -> dict[str, tuple[object, ...]]:
    return {
        test: (item.outcome, item.reason, item.evidence, plain(item.message), item.family, bool(item.anatomy))
        for test, item in results.items()
    }


@pytest.mark.parametrize("isolation", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_pool_gives_the_outcomes_of_one_process(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, isolation: str
) -> None:
    extend_conftest(FAULTS + WHERE + MODELS)
    flags = ("--headswap-checks=own,output_shape,gradient_flow", "--headswap-timeout=10")
    runs = {}
    for kind in ("local", "local:2"):
        name = kind.replace(":", "-")
        done = project.runpytest_subprocess(
            *(ZOO, *flags, "--headswap-memory-limit=400MiB", f"--headswap-isolation={isolation}"),
            *(f"--headswap-executor={kind}", f"--headswap-report={name}"),
        )
        assert done.ret == pytest.ExitCode.TESTS_FAILED, done.outlines
        runs[name] = journal(name)
    done.stdout.fnmatch_lines(["headswap: 2 processes"])
    assert outcomes(runs["local-2"]) == outcomes(runs["local"])
    assert "an omen" in done.stdout.str()
    seconds = {item.model: item.seconds for item in runs["local-2"].values() if item.check == "output_shape"}
    assert seconds["hanger"] > 9


def test_nothing_is_lost_or_double_if_a_process_of_the_pool_dies(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(SLEEPING)
    run = started(project, POOL, "-q")
    place = project.path / "headswap-report" / "results.jsonl"
    wait_for(lambda: place.exists() and len(place.read_text().splitlines()) > 3, run, project)
    assert len(list(project.path.glob("*.started"))) == 2, "both processes check models"
    psutil.Process(run.pid).children()[0].kill()
    assert run.wait(120) == 0, (project.path / "out.txt").read_text()
    results = journal()
    assert len(results) == 12
    assert {item.outcome for item in results.values()} == {"passed"}


def test_a_model_that_ends_the_process_of_the_pool_every_time_has_crashed(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "import psutil\ndef fatal():\n    psutil.Process(os.getppid()).kill()\n    import time\n    time.sleep(60)\n"
        "SPECS = {'alpha': dict(build=Net), 'fatal': dict(build=fatal), 'omega': dict(build=Net)}\n"
    )
    done = project.runpytest_subprocess(ZOO, ONE, POOL)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    results = {item.model: item for item in journal().values()}
    assert {name: item.outcome for name, item in results.items()} == {
        "alpha": "passed",
        "fatal": "crashed",
        "omega": "passed",
    }
    assert "died, and 3 times more" in results["fatal"].message


def test_results_arrive_while_a_long_model_runs(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "import time\ndef waiting():\n    while not os.path.exists('go.txt'):\n        time.sleep(0.05)\n"
        "    return Net()\nSPECS = {'a_long_one': dict(build=waiting), 'next': dict(build=Net), 'z': dict(build=Net)}\n"
    )
    run = started(project, POOL, "test_own.py")
    place = project.path / "headswap-report" / "results.jsonl"
    wait_for(lambda: place.exists() and "testzoo::z" in place.read_text().replace('","', "::"), run, project)
    assert "a_long_one" not in {item.model for item in journal().values()}
    (project.path / "go.txt").touch()
    assert run.wait(60) == 0
    assert len(journal()) == 3
    assert "4 passed" in (project.path / "out.txt").read_text(), "the project's own test runs too"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_processes_of_a_pool_end_with_the_run(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, end: signal.Signals
) -> None:
    extend_conftest(
        "import time\ndef waiting():\n    with open('pid.part', 'w') as file:\n        file.write(str(os.getpid()))\n"
        "    os.rename('pid.part', 'pid.txt')\n    time.sleep(0 if os.path.exists('go.txt') else 1000)\n"
        "    return Net()\nSPECS = {'alpha': dict(build=Net), 'beta': dict(build=waiting), 'gamma': dict(build=Net)}\n"
    )
    run = started(project, POOL)
    place = project.path / "pid.txt"
    wait_for(lambda: place.exists() and len(journal()) == 2, run, project)
    processes = [process.pid for process in psutil.Process(run.pid).children(recursive=True)]
    assert int(place.read_text()) in processes
    run.send_signal(end)
    run.wait(60)
    until = time.monotonic() + 20
    while any(map(psutil.pid_exists, processes)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, processes))
    assert {item.outcome for item in journal().values()} == {"passed"}
    (project.path / "go.txt").touch()
    assert started(project, POOL, "--headswap-resume").wait(90) == 0
    assert {item.model for item in journal().values()} == {"alpha", "beta", "gamma"}


def test_a_run_of_a_pool_stops_at_the_first_failure(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "import time\ndef slow():\n    time.sleep(1)\n    return Net()\n"
        "SPECS = {'a': dict(build=Raising), **{f'z{number}': dict(build=slow) for number in range(20)}}\n"
        "import pytest_headswap.plugin.collection.completion_order as order\n"
        "order.model_seconds = lambda settings: {**{f'testzoo::z{n}': 1 for n in range(20)}, 'testzoo::a': 2}\n"
    )
    done = project.runpytest_subprocess(ZOO, ONE, "-x", POOL)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["*stopping after 1 failures*"])
    assert list(journal()) == ["testzoo::a::output_shape"]


def test_a_check_that_runs_again_runs_in_the_pool_again(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    if find_spec("pytest_rerunfailures") is None:
        pytest.skip("pytest-rerunfailures is not installed")
    extend_conftest(
        "def pytest_headswap_checks(config):\n    def flaky(case):\n        if not os.path.exists('ran.txt'):\n"
        "            open('ran.txt', 'w').close()\n            raise AssertionError('not yet')\n"
        "    return {'flaky': flaky}\n"
    )
    done = project.runpytest_subprocess(ZOO, "--headswap-models=alpha", "--headswap-checks=flaky", "--reruns=2", POOL)
    done.assert_outcomes(passed=1)
    assert "1 rerun" in done.stdout.str()
    assert [item.outcome for item in journal().values()] == ["passed"]


def test_the_processes_of_a_pool_take_devices_in_turn(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "import time\ndef pytest_headswap_checks(config):\n    def turn(case):\n        time.sleep(1)\n"
        "        return os.environ['HEADSWAP_WORKER']\n    return {'turn': turn}\n"
    )
    flags = ("--headswap-models=alpha,beta*", "--headswap-checks=turn")
    project.runpytest_subprocess(ZOO, *flags, POOL).assert_outcomes(passed=2)
    assert {item.message for item in journal().values()} == {"0", "1"}


def test_a_conftest_that_raises_in_a_spawned_pool_is_the_error_of_each_model(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "import multiprocessing\nif multiprocessing.parent_process() is not None:\n    raise ValueError('not here')\n"
    )
    done = project.runpytest_subprocess(ZOO, ONE, "--headswap-isolation=spawn", "--headswap-models=alpha,lonely", POOL)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    results = journal().values()
    assert len(results) == 2
    assert all("not here" in item.message for item in results)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--headswap-executor=local:0",), "must be local, local:N"),
        (("--headswap-executor=local:",), "must be local, local:N"),
        (("--headswap-executor=local:two",), "must be local, local:N"),
        ((POOL, "-n", "2"), "distributes the models itself: leave out -n"),
        ((POOL, "--pdb"), "need the models here"),
    ],
)
def test_a_pool_that_cannot_be_used_is_a_usage_error(
    project: pytest.Pytester, flags: tuple[str, ...], message: str
) -> None:
    done = project.runpytest_subprocess(ZOO, ONE, *flags)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert message in done.stderr.str() + done.stdout.str()


def test_auto_means_a_process_on_each_cpu(project: pytest.Pytester) -> None:
    done = project.runpytest_subprocess(ZOO, ONE, "--headswap-models=alpha", "--headswap-executor=local:auto")
    done.assert_outcomes(passed=1)
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    done.stdout.fnmatch_lines([f"headswap: {count} process*"])


def test_models_whose_results_are_taken_over_are_not_built(
    project: pytest.Pytester, journal: Journal, builds: Callable[[], list[str]]
) -> None:
    run = (ZOO, ONE, "--headswap-models=alpha,lonely", POOL)
    project.runpytest_subprocess(*run, "--headswap-report=base").assert_outcomes(passed=2)
    path = project.path / "base" / "results.jsonl"
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text(
        header + "".join(line.replace('"passed"', '"failed"') if "lonely" in line else line for line in lines)
    )
    (project.path / "builds.txt").unlink()
    result = project.runpytest_subprocess(*run, "--headswap-since=base")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["headswap: since *: 1 of 2 results taken over; 1 run: *"])
    assert builds() == ["lonely"]
    assert sorted(bool(item.taken_over) for item in journal().values()) == [False, True]


def test_a_pool_and_one_process_take_over_each_others_results(project: pytest.Pytester, journal: Journal) -> None:
    run = (ZOO, ONE, "--headswap-models=alpha")
    project.runpytest_subprocess(*run, "--headswap-report=base").assert_outcomes(passed=1)
    project.runpytest_subprocess(*run, POOL, "--headswap-since=base").assert_outcomes(passed=1)
    assert all(item.taken_over for item in journal().values())


def test_a_debugger_keeps_the_models_in_the_process_of_pytest(
    project: pytest.Pytester, extend_conftest: Extend
) -> None:
    extend_conftest(
        "import sys\nsys.settrace(lambda *args: None)\nHERE = os.getpid()\n"
        "def pytest_headswap_checks(config):\n    def here(case):\n        assert os.getpid() == HERE\n"
        "    return {'here': here}\n"
    )
    project.runpytest_subprocess(ZOO, "--headswap-models=alpha", "--headswap-checks=here", POOL).assert_outcomes(
        passed=1
    )
