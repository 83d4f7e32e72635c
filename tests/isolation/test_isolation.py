"""A model that crashes, hangs, or floods memory or output affects only its own results."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from pytest_headswap.results import Result

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="models have a process of their own on Linux alone")

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

ZOO = "--headswap-zoo=testzoo"
ONE = "--headswap-checks=output_shape"
TWO = "--headswap-checks=output_shape,gradient_flow"

FAULTS = """
import ctypes, random, signal, sys, time

class Killer(Net):
    def forward(self, x):
        os.kill(os.getpid(), signal.SIGSEGV)

class Hanger(Net):
    def forward(self, x):
        ctypes.CDLL(None).sleep(1000)

class Eater(Net):
    def forward(self, x):
        eaten = []
        while len(eaten) < 100:
            eaten.append(b"x" * 20_000_000)
            time.sleep(0.005)

class Liar(Net):
    calls = 0
    def forward(self, x):
        Liar.calls += 1
        if Liar.calls % 3 == 0:
            raise RuntimeError("not this time")
        return super().forward(x) * random.SystemRandom().random()

class Clinging(Net):
    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.me = [self]
    def __del__(self):
        if hasattr(self, "me"):
            os._exit(3)

FAULTY = {
    "clinging": dict(build=Clinging),
    "eater": dict(build=Eater),
    "hanger": dict(build=Hanger),
    "killer": dict(build=Killer),
}
SOUND = {f"sound_{number:03}": dict(build=Net) for number in range(100)}
"""


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_hundred_sound_models_survive_crashing_hanging_and_greedy_ones(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, workers: int
) -> None:
    extend_conftest(FAULTS + "SPECS = {**SOUND, **FAULTY, 'liar': dict(build=Liar)}")
    flags = ["--headswap-timeout=8", "--headswap-memory-limit=400MiB"]
    if workers:
        pytest.importorskip("xdist")
        flags += ["-n", str(workers)]
    done = project.runpytest_subprocess(ZOO, TWO, *flags)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert "Restarting" not in done.stdout.str()
    assert "replacing crashed worker" not in done.stdout.str()
    results = journal()
    assert len(results) == 2 * 105
    sound = [item for item in results.values() if item.model.startswith("sound")]
    assert Counter(item.outcome for item in sound) == {"passed": 200}
    assert {item.evidence for item in sound} == {"numeric"}
    of = {model: results[f"testzoo::{model}::output_shape"] for model in ("killer", "hanger", "eater", "liar")}
    assert of["killer"].outcome == "crashed"
    assert of["killer"].message.startswith("the process of the model was killed by SIGSEGV while building the model")
    assert of["hanger"].outcome == "timeout"
    assert of["hanger"].message.startswith(
        "timed out after 8 s (--headswap-timeout) while building the model, in forward ("
    )
    assert of["eater"].outcome == "crashed"
    assert "more than the 400 MiB of --headswap-memory-limit" in of["eater"].message
    assert of["liar"].outcome in ("error", "failed")
    assert of["liar"].message
    clinging = [item for item in results.values() if item.model == "clinging"]
    assert [item.outcome for item in clinging] == ["passed", "crashed"]
    assert clinging[1].message == "the process of the model ended with exit status 3 while releasing the model"
    rest = [results[f"testzoo::{model}::gradient_flow"] for model in ("killer", "hanger", "eater")]
    assert [item.outcome for item in rest] == ["crashed", "timeout", "crashed"]
    assert all(item.message.startswith("not run: ") for item in rest)


CHECKS = """
import signal
RUNS = os.path.join(os.path.dirname(__file__), "runs.txt")

def pytest_headswap_checks(config):
    def dying(case):
        os.kill(os.getpid(), signal.SIGKILL)
    def noting(case):
        with open(RUNS, "a") as file:
            file.write(case.spec.name)
    return {"first": noting, "dying": dying, "after": noting, "dying_too": dying, "last": noting}
"""
FIVE = "--headswap-checks=first,dying,after,dying_too,last"


def test_a_model_that_dies_in_a_check_is_rebuilt_once_for_the_others(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, builds: Callable[[], list[str]]
) -> None:
    extend_conftest(CHECKS)
    project.runpytest_inprocess(ZOO, FIVE, "--headswap-models=alpha").assert_outcomes(passed=2, failed=3)
    outcomes = {item.check: (item.outcome, item.message) for item in journal().values()}
    died = "the process of the model was killed by SIGKILL in {}; the kernel does this when memory runs out"
    assert outcomes == {
        "first": ("passed", ""),
        "dying": ("crashed", died.format("dying")),
        "after": ("passed", ""),
        "dying_too": ("crashed", died.format("dying_too")),
        "last": ("crashed", f"not run: {died.format('dying_too')}"),
    }
    assert builds() == ["alpha", "alpha"]


def test_the_time_limit_covers_all_checks_of_a_model(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "import time\n"
        "def slow(case):\n"
        "    time.sleep(1.2)\n"
        "def pytest_headswap_checks(config):\n"
        "    return {'slow': slow, 'slower': slow, 'last': slow}\n"
    )
    result = project.runpytest_inprocess(
        ZOO, "--headswap-checks=slow,slower,last", "--headswap-models=alpha", "--headswap-timeout=2.25"
    )
    result.assert_outcomes(passed=1, failed=2)
    _, slower, last = journal().values()
    printed = r"timed out after 2.25 s (--headswap-timeout) in slower, in slow (*conftest.py:*)"
    result.stdout.fnmatch_lines(
        [
            printed,
            "Current thread 0x* (most recent call first):",
            '  File "*conftest.py", line * in slow',
            "Repeat with: pytest * --headswap-timeout=2.25",
            f"not run: {printed}",
        ]
    )
    assert (slower.outcome, last.outcome) == ("timeout", "timeout")
    assert last.seconds < slower.seconds


def test_a_crash_shows_its_location(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(FAULTS + "SPECS = FAULTY")
    result = project.runpytest_inprocess(ZOO, ONE, "--headswap-models=killer")
    result.stdout.fnmatch_lines(
        [
            "*_ testzoo killer output_shape _*",
            "the process of the model was killed by SIGSEGV while building the model, in forward (*conftest.py:*)*",
            "Fatal Python error: Segmentation fault",
            '  File "*conftest.py", line * in forward',
        ]
    )


@pytest.mark.parametrize("raised", ["SystemExit(3)", "KeyboardInterrupt()", "GeneratorExit()"])
def test_an_exit_of_a_model_is_an_error_and_does_not_end_pytest(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, raised: str
) -> None:
    extend_conftest(f"def leaving():\n    raise {raised}\nSPECS = {{'a': dict(build=leaving), 'b': dict(build=Net)}}")
    project.runpytest_inprocess(ZOO, ONE).assert_outcomes(errors=1, passed=1)
    first, _ = journal().values()
    assert (first.outcome, first.message) == ("error", raised.replace("(3)", ": 3").replace("()", ""))


def test_an_interrupt_in_a_check_is_an_error_of_this_check_alone(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    """A library may raise it, since Ctrl-C never reaches the process of a model."""
    extend_conftest(
        "def interrupt(case):\n"
        "    raise KeyboardInterrupt('by the library')\n"
        "def pytest_headswap_checks(config):\n"
        "    return {'interrupt': interrupt, 'after': lambda case: None}\n"
        "SPECS = {'a': dict(build=Net)}\n"
    )
    project.runpytest_inprocess(ZOO, "--headswap-checks=interrupt,after").assert_outcomes(failed=1, passed=1)
    first, second = journal().values()
    assert (first.outcome, first.message) == ("error", "KeyboardInterrupt: by the library")
    assert second.outcome == "passed"


def test_an_exception_that_cannot_be_pickled_is_still_reported(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "class Odd(Exception):\n"
        "    def __init__(self, one, two):\n"
        "        super().__init__(f'{one} and {two}')\n"
        "        self.kept = lambda: one\n"
        "def build():\n"
        "    raise Odd('this', 'that ' + 'x' * 100_000)\n"
        "SPECS = {'a': dict(build=build)}\n"
    )
    result = project.runpytest_inprocess(ZOO, ONE)
    result.stdout.fnmatch_lines(["Odd: this and that xxx*", "*ERROR testzoo::a::output_shape*"])
    (item,) = journal().values()
    assert item.message.startswith("Odd: this and that xxx")
    assert item.message.endswith("x... and 34,483 characters more")


def test_an_xfail_mark_can_name_the_expected_exception(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(
        "from pytest_headswap import CheckFailed\n"
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items:\n"
        "        expected = CheckFailed if 'mismatched' in item.nodeid else ValueError\n"
        "        item.add_marker(pytest.mark.xfail(raises=expected))\n"
    )
    result = project.runpytest_inprocess(
        ZOO, "--headswap-checks=native_parity", "--headswap-models=mismatched,unbuildable,raising"
    )
    result.assert_outcomes(xfailed=2, errors=1)


def test_a_model_that_forks_gets_each_result_once(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest("def forking():\n    os.fork()\n    return Net()\nSPECS = {'a': dict(build=forking)}")
    project.runpytest_inprocess(ZOO, TWO).assert_outcomes(passed=2)
    assert len(journal()) == 2


def test_processes_that_a_model_started_end_with_it(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "import subprocess\n"
        "def leaving():\n"
        "    process = subprocess.Popen(['sleep', '3000'])\n"
        "    open('started.txt', 'w').write(str(process.pid))\n"
        "    os.kill(os.getpid(), 9)\n"
        "SPECS = {'a': dict(build=leaving)}\n"
    )
    project.runpytest_inprocess(ZOO, ONE)
    assert len(journal()) == 1
    started = int((project.path / "started.txt").read_text())
    for _ in range(1000):
        if has_ended(started):
            break
        time.sleep(0.02)
    assert has_ended(started)


def has_ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_the_output_of_a_model_is_shown_up_to_a_limit(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(
        "import sys\n"
        "def loud():\n"
        "    for _ in range(3000):\n"
        "        print('y' * 999)\n"
        "    os.write(2, b'from below\\n')\n"
        "    return Net()\n"
        "def quiet():\n"
        "    print('a word')\n"
        "    return Net()\n"
        "SPECS = {'loud': dict(build=loud), 'quiet': dict(build=quiet)}\n"
    )
    result = project.runpytest_inprocess(ZOO, ONE, "-s")
    result.assert_outcomes(passed=2)
    lines = Counter(result.outlines)
    assert lines["y" * 999] in (1047, 1048), "as many as fit, and the first may stand behind the name of the zoo"
    assert [line for line in lines if line.startswith("... the model prints more than 1,048,576 bytes")]
    assert any(line.endswith("a word") for line in lines)
    assert any("from below" in line for line in result.errlines)


def test_a_line_that_a_model_does_not_end_is_shown_with_this_model(
    project: pytest.Pytester, extend_conftest: Extend
) -> None:
    extend_conftest(
        "def failing():\n"
        "    print('half a line', end='')\n"
        "    raise ValueError('no')\n"
        "SPECS = {'a': dict(build=failing)}\n"
    )
    result = project.runpytest_inprocess(ZOO, ONE)
    result.stdout.fnmatch_lines(["*Captured stdout setup*", "half a line*"])


def test_the_output_of_a_model_is_shown_with_its_failure(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(
        "import logging, warnings\n"
        "def failing():\n"
        "    print('on my way')\n"
        "    logging.getLogger('net').warning('a bad sign')\n"
        "    warnings.warn('an omen')\n"
        "    raise ValueError('no')\n"
        "SPECS = {'a': dict(build=failing)}\n"
    )
    result = project.runpytest_inprocess(ZOO, ONE)
    result.stdout.fnmatch_lines(
        ["*Captured stdout setup*", "on my way", "*Captured stderr setup*", "a bad sign", "*UserWarning: an omen"]
    )


CHANGING = """
import random, signal, sys, threading, time
import numpy

def changing():
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = True
    os.chdir("/")
    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
    os.environ["HEADSWAP_LEFT"] = "1"
    sys.path.insert(0, "/left")
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
    return Net()

def looking():
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert threading.active_count() == 1
    assert torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.getcwd() != "/"
    assert "HEADSWAP_LEFT" not in os.environ
    assert "/left" not in sys.path
    return Net()

def setting():
    signal.alarm(1)
    os.environ["HEADSWAP_LEFT"] = "1"
    sys.path.insert(0, "/left")
    return Net()

SPECS = {"a": dict(build=changing), "b": dict(build=looking), "c": dict(build=setting), "d": dict(build=looking)}
"""


def test_global_state_changed_by_a_model_is_reported_and_undone(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(CHANGING)
    project.runpytest_inprocess(ZOO, ONE).assert_outcomes(passed=4)
    changed, *others = (item.message for item in journal().values())
    assert changed == (
        "the model changed global state: torch.get_num_threads() is 3, it was 1, "
        "torch.get_deterministic_debug_mode() is 2, it was 0, torch.backends.cudnn.benchmark is True, it was False, "
        "threading.active_count() is 2, it was 1, "
        f"os.getcwd() is /, it was {project.path}"
    )
    assert others == ["", "", ""]


PATCHING = """
import colorsys
import random, resource, signal, sys, types
import torch.nn.functional as F
from torch.nn.modules.module import register_module_forward_hook

def functions():
    F.relu = F.gelu
    torch.relu = lambda x: x
    torch.Tensor.relu = lambda self: self
    nn.Conv3d.forward = nn.Identity.forward
    nn.ReLU.__call__ = lambda self, x: x
    random.random = lambda: 0.5
    return Net()

def process():
    signal.signal(signal.SIGUSR2, lambda *_: None)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    register_module_forward_hook(lambda *_: None)
    return Net()

def imports():
    sys.modules["no_such_package"] = types.ModuleType("no_such_package")
    sys.modules["zipapp"] = None
    sys.modules["email"] = types.ModuleType("email")
    del sys.modules["torch.nn.functional"]
    return Net()

def looking():
    assert F.relu is not F.gelu and torch.relu.__name__ == "relu"
    assert nn.Conv3d.forward.__qualname__ == "Conv3d.forward" and "__call__" not in vars(nn.ReLU)
    assert torch.Tensor.relu.__name__ == "relu" and type(random.random).__name__ == "builtin_function_or_method"
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 200
    assert not torch.nn.modules.module._global_forward_hooks
    assert "no_such_package" not in sys.modules and "torch.nn.functional" in sys.modules
    import zipapp
    return Net()

def importing():
    import zipapp, torch._dynamo
    sys.modules.pop("colorsys")
    import colorsys  # executes the module once more, as transformers does with itself
    sys.modules.setdefault("cython_runtime", type(sys)("cython_runtime"))  # as any extension written in Cython does
    return Net()

SPECS = {
    "a": dict(build=functions), "b": dict(build=looking), "c": dict(build=process), "d": dict(build=looking),
    "e": dict(build=imports), "f": dict(build=looking), "g": dict(build=importing),
}
"""


def test_patches_of_torch_and_of_the_process_are_reported_and_do_not_reach_the_next_model(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(PATCHING)
    project.runpytest_inprocess(ZOO, ONE).assert_outcomes(passed=7)
    functions, second, process, fourth, imports, *others = (item.message for item in journal().values())
    for name in ("torch.nn.functional.relu", "torch.relu", "Conv3d.forward", "random.random"):
        assert f"{name} was replaced" in functions
    for name in ("ReLU.__call__", "torch.Tensor.relu"):
        assert f"{name} was overridden" in functions
    for words in (
        "the handler of SIGUSR2 is <",
        "the limit RLIMIT_NOFILE is (200, ",
        "global module hooks is 1, it was 0",
    ):
        assert words in process
    for name, words in (
        ("no_such_package", "was set without an import"),
        ("zipapp", "was"),  # torch may have imported it
        ("email", "was replaced"),
        ("torch.nn.functional", "was removed"),
    ):
        assert f"sys.modules['{name}'] {words}" in imports
    assert (second, fourth, *others) == ("", "", "", "")


def test_global_state_changed_by_a_check_is_reported_with_the_check(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "def changing(case):\n"
        "    torch.set_num_threads(2)\n"
        "def looking(case):\n"
        "    return f'{torch.get_num_threads()} threads'\n"
        "def pytest_headswap_checks(config):\n"
        "    return {'changing': changing, 'looking': looking}\n"
    )
    project.runpytest_inprocess(ZOO, "--headswap-checks=changing,looking", "--headswap-models=alpha,lonely")
    assert [item.message for item in journal().values()] == [
        "the model changed global state: torch.get_num_threads() is 2, it was 1",
        "2 threads",
    ] * 2


NOTING = """
import psutil
def pytest_headswap_case(config, case):
    with (config.rootpath / "held.txt").open("a") as file:
        file.write(f"{os.getpid()} {psutil.Process().memory_info().rss}\\n")
class Large(Net):
    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.register_buffer("table", torch.ones(1_000_000))
        self.me = [self]
SPECS = {f"net_{number:02}": dict(build=Large, build_native=Large) for number in range(50)}
"""


def test_memory_does_not_grow_from_model_to_model(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(NOTING)
    # in a process of its own: pytester keeps what each hook was called with
    project.runpytest_subprocess(ZOO).assert_outcomes(passed=400)
    lines = [line.split() for line in (project.path / "held.txt").read_text().splitlines()]
    assert len({pid for pid, _ in lines}) == 1, "one process has had them all"
    # the first has not yet made a check, so the second is the first that can be compared
    assert int(lines[-1][1]) < 1.1 * int(lines[1][1])


def test_a_child_process_that_holds_much_memory_is_replaced(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(
        NOTING
        + "KEPT = []\n"
        + "def keeping():\n"
        + "    KEPT.append(b'x' * 100_000_000)\n"
        + "    return Net()\n"
        + "SPECS = {'a': dict(build=Net), 'b': dict(build=keeping), 'c': dict(build=Net), 'd': dict(build=Net)}\n"
    )
    project.runpytest_inprocess(ZOO, ONE, "--headswap-memory-limit=150MB").assert_outcomes(passed=4)
    a, b, c, d = ((int(pid), int(held)) for pid, held in map(str.split, (project.path / "held.txt").open()))
    assert a[0] == b[0] != c[0] == d[0]
    assert b[1] > d[1] + 90_000_000


@pytest.mark.parametrize("flag", ["--pdb", "--trace"])
def test_models_run_in_the_pytest_process_under_a_debugger(
    project: pytest.Pytester, extend_conftest: Extend, flag: str
) -> None:
    extend_conftest(NOTING)
    result = project.runpytest_inprocess(ZOO, ONE, flag, "--collect-only")
    result.stdout.fnmatch_lines(
        ["headswap: limits: none, because models run in the pytest process with --pdb and --trace"]
    )
    if flag == "--pdb":
        project.runpytest_inprocess(ZOO, ONE, flag, "--headswap-models=net_00").assert_outcomes(passed=1)
        assert (project.path / "held.txt").read_text().startswith(f"{os.getpid()} ")


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


@pytest.mark.parametrize(
    ("ending", "isolation"), [(signal.SIGINT, "fork"), (signal.SIGKILL, "fork"), (signal.SIGKILL, "spawn")]
)
def test_an_interrupted_run_keeps_its_results_and_leaves_no_process(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, ending: signal.Signals, isolation: str
) -> None:
    extend_conftest(
        FAULTS
        + "def waiting():\n"
        + "    with open('pid' + '.txt', 'w') as file:\n"
        + "        file.write(str(os.getpid()))\n"
        + "    os.rename('pid' + '.txt', 'waiting' + '.txt')\n"
        + "    time.sleep(0 if os.path.exists('go' + '.txt') else 1000)\n"
        + "    return Net()\n"
        + "SPECS = {'alpha': dict(build=Net), 'beta': dict(build=waiting), 'gamma': dict(build=Net)}\n"
    )
    kind = f"--headswap-isolation={isolation}"
    command = [sys.executable, "-m", "pytest", ZOO, TWO, kind, "-p", "no:cacheprovider"]
    out = (project.path / "out.txt").open("w")
    # shells start what runs in the background with Ctrl-C ignored, and what that starts would ignore it too
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    run = project.popen(command, stdout=out, stderr=out, start_new_session=True, preexec_fn=listen)
    place, until = project.path / "waiting.txt", time.monotonic() + 60
    while not place.exists():
        assert time.monotonic() < until
        assert run.poll() is None, (project.path / "out.txt").read_text()
        time.sleep(0.02)
    runner = int(place.read_text())
    assert _alive(runner)
    run.send_signal(ending)
    run.wait(30)
    out.close()
    until = time.monotonic() + 5
    while _alive(runner) and time.monotonic() < until:
        time.sleep(0.01)
    assert not _alive(runner)
    assert list(journal()) == ["testzoo::alpha::output_shape", "testzoo::alpha::gradient_flow"]
    if ending == signal.SIGINT:
        assert run.returncode == pytest.ExitCode.INTERRUPTED
        assert "testzoo: 2 results: 2 passed" in (project.path / "out.txt").read_text()
        (project.path / "go.txt").touch()
        result = project.runpytest_inprocess(ZOO, TWO, "--headswap-resume")
        result.assert_outcomes(passed=4, deselected=2)
        assert len(journal()) == 6


def test_a_child_process_that_dies_between_two_models_affects_neither(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        NOTING + "import psutil, signal, time\n"
        "def pytest_runtest_logfinish(nodeid):\n"
        "    pid = int(open('held.txt').read().split()[-2])\n"
        "    os.kill(pid, signal.SIGKILL)\n"
        "    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:\n"
        "        time.sleep(0.01)\n"
    )
    project.runpytest_inprocess(ZOO, ONE, "--headswap-models=net_00,net_01").assert_outcomes(passed=2)
    pids = [line.split()[0] for line in (project.path / "held.txt").read_text().splitlines()]
    assert len(set(pids)) == 2
