"""Runs over many models name every fault, and runs that are killed lose nothing."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_headswap.results import JournalError, Result, read_journal
from tests.many_models import BROKEN

pytestmark = pytest.mark.slow

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("flags", [[], ["-n2"]], ids=["alone", "with two workers"])
def test_each_fault_among_a_hundred_sound_models_is_named_by_the_check_that_promises_it(
    project: pytest.Pytester, journal: Journal, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    result = project.runpytest_subprocess("--headswap-zoo=tests.many_models:ZOO", *flags, "-q")
    results = journal()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    sound = [found for found in results.values() if found.model not in BROKEN]
    assert len({found.model for found in sound}) == 100
    assert [found for found in sound if found.outcome not in ("passed", "skipped")] == []
    assert len(BROKEN) >= 50
    assert len(results) == 8 * (100 + len(BROKEN))
    for model, (check, message) in BROKEN.items():
        found = results[f"tests.many_models:ZOO::{model}::{check}"]
        assert found.needs_attention, found
        assert re.search(message, found.message), (message, found)


def test_twenty_kills_at_random_moments_lose_nothing(project: pytest.Pytester, journal: Journal) -> None:
    def start(folder: str, *flags: str) -> subprocess.Popen[bytes]:
        options = ("--headswap-zoo=testzoo", "--headswap-checks=output_shape,metadata,state_dict", "-q")
        command = [sys.executable, "-m", "pytest", *options, f"--headswap-report={folder}", *flags]
        return subprocess.Popen(command, cwd=project.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def outcomes(folder: str) -> dict[str, tuple[str, str]]:
        return {nodeid: (found.outcome, found.reason) for nodeid, found in journal(folder).items()}

    def finished(folder: str) -> list[Result]:
        try:
            return read_journal(project.path / folder)[1]
        except JournalError:  # killed before the header was written
            return []

    start("whole").wait()
    whole = outcomes("whole")
    assert len(whole) == 24
    interrupted = 0
    for seed in range(20):
        folder, flags = f"killed-{seed}", ("-n2",) if seed % 4 == 3 else ()
        chance = random.Random(seed)
        wanted = chance.randrange(len(whole))  # a time would be too early or too late on another machine
        process = start(folder, *flags)
        while process.poll() is None and len(finished(folder)) < wanted:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.wait()
        before = finished(folder)
        interrupted += len(before) < len(whole)
        code = start(folder, "--headswap-resume", *flags).wait()
        assert code == pytest.ExitCode.TESTS_FAILED, f"seed {seed}"
        assert outcomes(folder) == whole, f"seed {seed}"
        after = journal(folder)
        kept = [found for found in before if found.outcome not in ("crashed", "timeout")]
        assert all(after[found.nodeid].seconds == found.seconds for found in kept), f"seed {seed}"
    assert interrupted >= 5
