"""Runs with devices that the tests make up: in every process of a run, and in what the run reports."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch

from pytest_headswap.results import Result, read_journal

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]
USAGE_ERROR = pytest.ExitCode.USAGE_ERROR
ALPHA = ("--headswap-zoo=testzoo", "--headswap-models=alpha", "--headswap-checks=output_shape")

# A backend that is a package: it makes torch have devices, and writes down the process that imports it.
BACKEND = """
import os, pathlib, torch
torch.xpu.device_count = lambda: 1
torch.xpu.is_available = lambda: True
with (pathlib.Path(__file__).parent / "imported.txt").open("a") as file:
    file.write(f"{os.getpid()}\\n")
"""

WHERE = """
def pytest_headswap_checks(config):
    from pytest_headswap import Check
    return {"where": Check("where", lambda case: str(os.getpid()))}
"""


def test_the_header_the_journal_and_the_reports_name_the_devices(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H200 <{device.index}>")
    names = ["cuda:0 (NVIDIA H200 <0>)", "cuda:1 (NVIDIA H200 <1>)"]
    done = project.runpytest_inprocess(*ALPHA)
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines([f"headswap: *; 7 classes; on {', '.join(names)}"])
    folder = project.path / "headswap-report"
    assert read_journal(folder)[0].devices == names
    assert "; on cuda:0" in (folder / "summary.md").read_text(encoding="utf-8")
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "cuda:0 (NVIDIA H200 &lt;0&gt;), cuda:1 (NVIDIA H200 &lt;1&gt;)" in page


@pytest.mark.parametrize("option", ["--headswap-device=cpu", "--headswap-evidence=abstract"])
def test_no_device_is_named_where_none_is_used(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    done = project.runpytest_inprocess(*ALPHA, option, "--collect-only")
    done.stdout.no_fnmatch_line("*cuda*")


BROKEN = {
    "raise ImportError('libdriver.so.7: cannot open')": "raises ImportError: libdriver.so.7: cannot open",
    "import nowhere_else": "raises ModuleNotFoundError: No module named 'nowhere_else'",
    "raise SystemExit('no licence')": "raises SystemExit: no licence",
    "def f(:": "raises SyntaxError: *",
    "import torch; torch.rename('x')": "raises AttributeError: module 'torch' has no attribute 'rename'",
}


@pytest.mark.parametrize(("code", "message"), BROKEN.items(), ids=BROKEN.keys())
def test_a_backend_whose_import_fails_is_one_error_with_its_message(
    project: pytest.Pytester, code: str, message: str
) -> None:
    project.makepyfile(broken_backend=code)
    project.syspathinsert()
    done = project.runpytest_inprocess(*ALPHA, "--headswap-device-import=broken_backend")
    assert done.ret == USAGE_ERROR
    done.stderr.fnmatch_lines([f"ERROR: --headswap-device-import=broken_backend: importing it with torch * {message}"])
    assert "Traceback" not in done.stderr.str()


def test_a_device_that_cannot_be_counted_is_one_error_with_its_message(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count() -> int:
        raise RuntimeError("Level Zero is not installed")

    monkeypatch.setattr(torch.xpu, "device_count", count)
    done = project.runpytest_inprocess(*ALPHA, "--headswap-device=xpu")
    assert done.ret == USAGE_ERROR
    done.stderr.fnmatch_lines(["*=xpu: torch * cannot count *xpu: RuntimeError: Level Zero is not installed"])


def test_an_invalid_device_of_parametrized_checks_is_a_clear_error(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_mine="from pytest_headswap import parametrize_with_checks\n"
        "@parametrize_with_checks('builtin:alias', device='npu')\n"
        "def test_it(model, check):\n    check(model)\n"
    )
    done = project.runpytest_inprocess("test_mine.py")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*OptionError: device=npu: torch * install torch_npu and add device_import=torch_npu."])


@pytest.mark.skipif(sys.platform == "darwin", reason="torch has MPS there")
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_backend_is_imported_in_every_process_and_its_run_is_not_forked(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, workers: int
) -> None:
    extend_conftest(WHERE)
    project.makepyfile(fake_backend=BACKEND)
    project.syspathinsert()
    project.makeini("[pytest]\nheadswap_device_import = fake_backend\n")
    checks = ("--headswap-zoo=testzoo", "--headswap-checks=where", "--headswap-models=alpha,lonely,beta*")
    done = project.runpytest_subprocess(*checks, "-W", "error", *(("-n", str(workers)) if workers else ()))
    done.assert_outcomes(passed=3)
    done.stdout.fnmatch_lines(["headswap: *; on xpu:0"])
    imported = set((project.path / "imported.txt").read_text(encoding="utf-8").split())
    children = {result.message for result in journal().values()}
    assert children < imported, "a spawned process imports it, a fork does not"
    assert len(imported - children) == workers + 1
    assert all(result.repro.endswith("--headswap-device-import=fake_backend") for result in journal().values())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the devices of this test live in a fork")
def test_the_workers_of_a_run_take_several_devices_in_turn(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "import importlib\n"
        "from pathlib import Path\n"
        "placement = importlib.import_module('pytest_headswap.checks.device_placement')\n"
        "from pytest_headswap.checks import gpu_lock\n"
        "torch.cuda.device_count, torch.cuda.is_available = lambda: 3, lambda: True\n"
        "torch.cuda.get_device_name = lambda device: ''\n"
        "placement.check_on_device = lambda case, device: os.environ['PYTEST_XDIST_WORKER']\n"
        "placement.check_moved_between = lambda case, one, other: f'from {one} to {other}'\n"
        "gpu_lock._lock_file = lambda device: Path(__file__).with_name(f'{device.index}.lock')\n"
        "def slowly():\n"
        "    import time\n"
        "    time.sleep(0.2)  # so that each worker gets some\n"
        "    return Net()\n"
        "SPECS = {f'net_{number}': dict(build=slowly) for number in range(8)}\n"
    )
    only = ("--headswap-zoo=testzoo", "--headswap-checks=device_placement", "-n", "2")
    project.runpytest_subprocess(*only).assert_outcomes(passed=8)
    found = {(result.message, result.evidence) for result in journal().values()}
    assert found == {
        ("gw0; from cuda:0 to cuda:1", "cuda:0, cuda:1"),
        ("gw1; from cuda:1 to cuda:2", "cuda:1, cuda:2"),
    }
    project.runpytest_subprocess(*only, "--headswap-device=cuda:2").assert_outcomes(passed=8)
    assert {(result.message, result.evidence) for result in journal().values()} == {
        ("gw0", "cuda:2"),
        ("gw1", "cuda:2"),
    }
