"""Models run on a Ray cluster, with the outcomes of a local run. These tests start clusters on this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pytest_headswap.results import Result
from tests.isolation.test_isolation import FAULTS
from tests.isolation.test_spawned_process import MODELS, WHERE, plain

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

pytestmark = pytest.mark.ray
ZOO = "--headswap-zoo=testzoo"
ONE = "--headswap-checks=output_shape"


class LocalCluster:
    """A Ray cluster on this machine, at first of one node with one CPU."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("ray_cluster.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the cluster has ended"
        return line

    def _send(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        self._line()

    def add_node(self, cpus: int, gpus: int = 0) -> None:
        self._send(f"add {cpus} {gpus}")

    def kill_node(self) -> None:
        self._send("kill")

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """Start a cluster."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray takes an empty one for a node without GPUs
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    found = LocalCluster()
    yield found
    found.close()


def started(project: pytest.Pytester, *flags: str) -> Any:
    """Start a run whose output goes to out.txt."""
    command = [sys.executable, "-m", "pytest", ZOO, ONE, "-p", "no:cacheprovider", *flags]
    out = (project.path / "out.txt").open("w")
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return project.popen(command, stdout=out, stderr=out, start_new_session=True, preexec_fn=listen)


def wait_for(condition: Callable[[], object], run: Any, project: pytest.Pytester) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        assert run.poll() is None, (project.path / "out.txt").read_text()
        time.sleep(0.05)


def test_a_cluster_gives_the_outcomes_of_a_local_run(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, cluster: LocalCluster
) -> None:
    extend_conftest(FAULTS + WHERE + MODELS)
    checks = "--headswap-checks=own,output_shape,gradient_flow"
    limits = ("--headswap-timeout=10", "--headswap-memory-limit=400MiB")
    runs = {}
    for kind in ("local", f"ray:{cluster.address}"):
        name = kind.partition(":")[0]
        done = project.runpytest_subprocess(
            ZOO, checks, *limits, f"--headswap-executor={kind}", f"--headswap-report={name}"
        )
        assert done.ret == pytest.ExitCode.TESTS_FAILED, done.outlines
        runs[name] = journal(name)
    done.stdout.fnmatch_lines(["headswap: Ray cluster of 1 node with 1 CPUs"])
    local, remote = (
        {
            test: (item.outcome, item.reason, item.evidence, plain(item.message), item.family, bool(item.anatomy))
            for test, item in results.items()
        }
        for results in runs.values()
    )
    assert remote == local
    assert "an omen" in done.stdout.str()
    seconds = {item.model: item.seconds for item in runs["ray"].values() if item.check == "output_shape"}
    assert seconds["hanger"] > 9


SLEEPING = """
import time
def sleeping():
    path = os.path.join(os.path.dirname(__file__), f"{os.getpid()}.started")
    open(path, "w").close()
    time.sleep(0.5)
    return Net()
SPECS = {f"net_{number:02}": dict(build=sleeping) for number in range(12)}
"""


def test_nothing_is_lost_or_double_if_a_node_dies(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, cluster: LocalCluster
) -> None:
    extend_conftest(SLEEPING)
    cluster.add_node(1)
    run = started(project, f"--headswap-executor=ray:{cluster.address}", "-q")
    place = project.path / "headswap-report" / "results.jsonl"
    wait_for(lambda: place.exists() and len(place.read_text().splitlines()) > 3, run, project)
    assert len(list(project.path.glob("*.started"))) >= 2, "both nodes check models"
    cluster.kill_node()
    assert run.wait(120) == 0, (project.path / "out.txt").read_text()
    results = journal()
    assert len(results) == 12
    assert {item.outcome for item in results.values()} == {"passed"}
    assert "2 nodes with 2 CPUs" in (project.path / "out.txt").read_text()


def test_results_arrive_while_a_long_model_runs(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, cluster: LocalCluster
) -> None:
    cluster.add_node(1)
    extend_conftest(
        "import time\ndef waiting():\n    while not os.path.exists('go.txt'):\n        time.sleep(0.05)\n"
        "    return Net()\nSPECS = {'a_long_one': dict(build=waiting), 'next': dict(build=Net), 'z': dict(build=Net)}\n"
    )
    run = started(project, f"--headswap-executor=ray:{cluster.address}", "test_own.py")
    place = project.path / "headswap-report" / "results.jsonl"
    wait_for(lambda: place.exists() and "testzoo::z" in place.read_text().replace('","', "::"), run, project)
    assert "a_long_one" not in {item.model for item in journal().values()}
    (project.path / "go.txt").touch()
    assert run.wait(60) == 0
    assert len(journal()) == 3
    assert "4 passed" in (project.path / "out.txt").read_text(), "the project's own test runs too"


def test_ctrl_c_keeps_the_results_and_ends_the_models(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, cluster: LocalCluster
) -> None:
    extend_conftest(
        "import time\ndef waiting():\n    with open('pid.part', 'w') as file:\n        file.write(str(os.getpid()))\n"
        "    os.rename('pid.part', 'pid.txt')\n    time.sleep(0 if os.path.exists('go.txt') else 1000)\n"
        "    return Net()\nSPECS = {'alpha': dict(build=Net), 'beta': dict(build=waiting), 'gamma': dict(build=Net)}\n"
    )
    executor = f"--headswap-executor=ray:{cluster.address}"
    run = started(project, executor)
    place = project.path / "pid.txt"
    wait_for(lambda: place.exists() and "alpha" in {item.model for item in journal().values()}, run, project)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == pytest.ExitCode.INTERRUPTED, (project.path / "out.txt").read_text()
    pid, until = int(place.read_text()), time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert [item.outcome for item in journal().values()] == ["passed"]
    (project.path / "go.txt").touch()
    assert started(project, executor, "--headswap-resume").wait(90) == 0
    assert {item.model for item in journal().values()} == {"alpha", "beta", "gamma"}


def test_a_run_on_a_cluster_stops_at_the_first_failure(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, cluster: LocalCluster
) -> None:
    extend_conftest(
        "SPECS = {'a': dict(build=Raising), **{f'z{number}': dict(build=Net) for number in range(20)}}\n"
        "import pytest_headswap.plugin.collection.completion_order as order\n"
        "order.model_seconds = lambda settings: {**{f'testzoo::z{n}': 1 for n in range(20)}, 'testzoo::a': 2}\n"
    )
    done = project.runpytest_subprocess(ZOO, ONE, "-x", f"--headswap-executor=ray:{cluster.address}")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["*stopping after 1 failures*"])
    assert list(journal()) == ["testzoo::a::output_shape"]


def test_a_check_that_runs_again_runs_on_the_cluster_again(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, cluster: LocalCluster
) -> None:
    if find_spec("pytest_rerunfailures") is None:
        pytest.skip("pytest-rerunfailures is not installed")
    extend_conftest(
        "def pytest_headswap_checks(config):\n    def flaky(case):\n        if not os.path.exists('ran.txt'):\n"
        "            open('ran.txt', 'w').close()\n            raise AssertionError('not yet')\n"
        "    return {'flaky': flaky}\n"
    )
    flags = ("--headswap-models=alpha", "--headswap-checks=flaky", "--reruns=2")
    done = project.runpytest_subprocess(ZOO, *flags, f"--headswap-executor=ray:{cluster.address}")
    done.assert_outcomes(passed=1)
    assert "1 rerun" in done.stdout.str()
    assert [item.outcome for item in journal().values()] == ["passed"]


def test_a_check_whose_model_cannot_be_built_again_says_so(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, cluster: LocalCluster
) -> None:
    if find_spec("pytest_rerunfailures") is None:
        pytest.skip("pytest-rerunfailures is not installed")
    extend_conftest(
        "def pytest_headswap_checks(config):\n    def flaky(case):\n        open('ran' + '.txt', 'w').close()\n"
        "        raise AssertionError('not yet')\n    return {'flaky': flaky, 'last': lambda case: None}\n"
        "def once():\n    if os.path.exists('ran' + '.txt'):\n        raise ValueError('only once')\n    return Net()\n"
        "SPECS = {'alpha': dict(build=once)}\n"
    )
    flags = ("--headswap-checks=flaky,last", "--reruns=1")
    project.runpytest_subprocess(ZOO, *flags, f"--headswap-executor=ray:{cluster.address}")
    results = {item.check: item for item in journal().values()}
    assert "ValueError: only once" in results["flaky"].message


def test_a_model_that_fits_on_no_node_is_a_usage_error(project: pytest.Pytester, cluster: LocalCluster) -> None:
    flags = ("--headswap-memory-limit=9000GiB", f"--headswap-executor=ray:{cluster.address}")
    done = project.runpytest_subprocess(ZOO, ONE, *flags)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "no node of the cluster has a CPU, 9000.0 GiB of memory for a model" in done.stderr.str() + done.stdout.str()


def test_models_share_the_gpus_of_a_cluster(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, cluster: LocalCluster
) -> None:
    cluster.add_node(3, 1)
    extend_conftest(
        "def pytest_headswap_checks(config):\n    return {'gpu': lambda case: os.environ.get('CUDA_VISIBLE_DEVICES')}\n"
    )
    flags = ("--headswap-models=alpha,beta*", "--headswap-checks=gpu")
    done = project.runpytest_subprocess(ZOO, *flags, f"--headswap-executor=ray:{cluster.address}")
    done.assert_outcomes(passed=2)
    done.stdout.fnmatch_lines(["headswap: Ray cluster of 2 nodes with 4 CPUs and 1 GPUs"])
    assert {item.message for item in journal().values()} == {"0"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--headswap-executor=ray:127.0.0.1:1",), "no Ray cluster can be reached at 127.0.0.1:1"),
        (("--headswap-executor=ray", "-n", "2"), "distributes the models itself: leave out -n"),
        (("--headswap-executor=ray", "--pdb"), "need the models here"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_a_usage_error(
    project: pytest.Pytester, flags: tuple[str, ...], message: str
) -> None:
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    done = project.runpytest_subprocess(ZOO, ONE, *flags)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert message in done.stderr.str() + done.stdout.str()


def test_models_whose_results_are_taken_over_are_not_sent_to_the_cluster(
    project: pytest.Pytester, journal: Journal, builds: Callable[[], list[str]], cluster: LocalCluster
) -> None:
    run = (ZOO, ONE, "--headswap-models=alpha,lonely", f"--headswap-executor=ray:{cluster.address}")
    project.runpytest_subprocess(*run, "--headswap-report=base").assert_outcomes(passed=2)
    path = project.path / "base" / "results.jsonl"
    header, alpha, lonely = path.read_text().splitlines(keepends=True)
    path.write_text(header + alpha + lonely.replace('"passed"', '"failed"'))
    (project.path / "builds.txt").unlink()
    result = project.runpytest_subprocess(*run, "--headswap-since=base")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["headswap: since *: 1 of 2 results taken over; 1 run: *"])
    assert builds() == ["lonely"]
    assert [bool(item.taken_over) for item in journal().values()] == [True, False]
