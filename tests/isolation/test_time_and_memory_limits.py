"""Each model gets the requested time and memory; a model known to be too large is not tried."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_headswap.harness import memory_budget
from pytest_headswap.harness.garbage import trim_heap
from pytest_headswap.harness.memory_budget import MemoryMeter, resolve_memory_budget
from pytest_headswap.harness.options import OptionError, parse_memory_size, parse_timeout
from pytest_headswap.results import Result

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

ZOO = "--headswap-zoo=testzoo"
ONE = "--headswap-checks=output_shape"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2.5GiB", 2.5 * 2**30),
        ("2500MB", 2.5e9),
        ("4G", 2**32),
        ("4g", 2**32),
        ("1 TB", 1e12),
        ("65536k", 2**26),
        ("100000000B", 1e8),
    ],
)
def test_a_memory_size_can_have_the_usual_units(text: str, size: float) -> None:
    assert parse_memory_size(text, "memory") == size


@pytest.mark.parametrize("text", ["", "4", "G", "-1G", "1,5G", "1XB", "many", "1e3MB"])
def test_an_invalid_memory_size_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(
        OptionError, match=r"--headswap-memory-limit must be a size such as 2\.5GiB, 2500MB or 4G, or auto"
    ):
        parse_memory_size(text, "--headswap-memory-limit")


def test_a_memory_size_too_small_for_any_model_is_refused() -> None:
    with pytest.raises(OptionError, match="no model runs in less than 64 MiB"):
        parse_memory_size("1MB", "--headswap-memory-limit")


@pytest.mark.parametrize(("value", "seconds"), [("300", 300), ("2.5", 2.5), (60, 60), ("1e2", 100)])
def test_a_timeout_is_a_number_of_seconds(value: object, seconds: float) -> None:
    assert parse_timeout(value, "timeout") == seconds


@pytest.mark.parametrize("value", ["0", "-3", "soon", "inf", "nan", None])
def test_an_invalid_timeout_is_refused(value: object) -> None:
    with pytest.raises(OptionError, match="--headswap-timeout must be a positive number of seconds, such as 300"):
        parse_timeout(value, "--headswap-timeout")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--headswap-timeout=0", "*--headswap-timeout must be a positive number of seconds*not '0'*"),
        ("--headswap-memory-limit=lots", "*--headswap-memory-limit must be a size such as 2.5GiB*not 'lots'*"),
    ],
)
def test_an_invalid_limit_ends_the_run_before_it_starts(project: pytest.Pytester, flag: str, message: str) -> None:
    result = project.runpytest_inprocess(ZOO, flag)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_workers_share_the_free_memory_and_values_get_at_most_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "available_memory", lambda: 10 * 2**30)
    assert resolve_memory_budget("auto", 1) == memory_budget.MemoryBudget(8 * 2**30, 4 * 2**30)
    assert resolve_memory_budget("auto", 4) == memory_budget.MemoryBudget(2 * 2**30, 2**30)
    assert resolve_memory_budget("auto", 1).tensor_bytes == resolve_memory_budget("100GiB", 1).process_bytes // 25, (
        "no more on a larger machine"
    )
    assert resolve_memory_budget("6G", 4) == memory_budget.MemoryBudget(6 * 2**30, 3 * 2**30), (
        "the requested limit applies to each worker"
    )


def test_the_memory_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = memory_budget.available_memory()
    assert free > 0
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_budget._cgroup_limits(tmp_path) == []
    (tmp_path / "memory.max").write_text("123456789\n")
    assert 123456789 in memory_budget._cgroup_limits(tmp_path)
    monkeypatch.setattr(memory_budget, "_cgroup_limits", lambda _: [free // 1000])
    assert memory_budget.available_memory() == free // 1000


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the system cannot reset the peak memory of a process"
)
def test_a_memory_meter_reports_the_peak_since_its_start() -> None:
    earlier = bytearray(os.urandom(1)) * 80_000_000
    del earlier
    trim_heap()  # as before each model: what a large process keeps of it would be taken again unseen
    meter = MemoryMeter()
    taken = bytearray(os.urandom(1)) * 40_000_000
    del taken
    measured = meter.peak_mb()
    assert measured is not None
    assert 30 < measured < 70


HUNGRY = """
class Hungry(Net):
    def forward(self, x):
        if not x.is_meta:
            eaten = []
            while len(eaten) < 30:
                eaten.append(b"x" * 20_000_000)
                __import__("time").sleep(0.005)
        return super().forward(x)
SPECS = {"hungry": dict(build=Hungry), "net": dict(build=Net)}
"""


def test_a_model_that_exceeds_the_memory_limit_is_killed_and_the_message_says_what_to_do(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(HUNGRY)
    flags = [ZOO, "--headswap-checks=gradient_flow", "--headswap-memory-limit=300MiB"]
    project.runpytest_inprocess(*flags).assert_outcomes(passed=1, failed=1)
    hungry, net = journal().values()
    assert (hungry.outcome, net.outcome) == ("crashed", "passed")
    assert hungry.message.endswith("; raise the limit, or use --headswap-evidence=abstract")
    assert hungry.peak_memory_mb is not None
    assert hungry.peak_memory_mb > 300


def test_a_model_whose_values_do_not_fit_gets_abstract_evidence_and_says_so(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "class Wide(Net):\n"
        "    def __init__(self, num_classes=10):\n"
        "        super().__init__(num_classes)\n"
        "        self.register_buffer('table', torch.zeros(10_000_000))\n"
        "SPECS = {'wide': dict(build=Wide)}\n"
    )
    for memory, evidence in ("120MiB", "abstract"), ("2GiB", "numeric"):
        project.runpytest_inprocess(ZOO, ONE, f"--headswap-memory-limit={memory}").assert_outcomes(passed=1)
        (item,) = journal().values()
        assert item.evidence == evidence
        assert ("more than the 60 MiB allowed" in item.message) == (evidence == "abstract")


def test_limits_appear_in_the_header_the_journal_and_the_repro_command(
    project: pytest.Pytester, journal: Journal
) -> None:
    flags = ["--headswap-timeout=30", "--headswap-memory-limit=1.5GiB"]
    result = project.runpytest_inprocess(ZOO, ONE, "--headswap-models=alpha", *flags)
    result.stdout.fnmatch_lines(["headswap: limits: 30 s and 1.5 GiB for each model"])
    (item,) = journal().values()
    assert item.repro.endswith(" ".join(flags))
    with (project.path / "headswap-report" / "results.jsonl").open() as file:
        options = json.loads(file.readline())["options"]
    assert (options["timeout"], options["memory_limit"]) == (30, "1.5GiB"), "as it was asked for"
