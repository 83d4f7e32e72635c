"""What this project states about public zoos, run as a downstream project would run it.

`conformance/<zoo>.toml` lists every result that is expected to be something else than a pass. A result that
is not listed, an entry that is not needed any more, and a skip for another reason are all failures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # a dependency of pytest there

HERE = Path(__file__).parent
LIBRARIES = {"builtin": "torch", "timm": "timm", "torchvision": "torchvision", "transformers": "transformers"}


@pytest.mark.conformance
@pytest.mark.parametrize("zoo", sorted(LIBRARIES))
def test_every_architecture_is_accounted_for(zoo: str, tmp_path: Path) -> None:
    pytest.importorskip(LIBRARIES[zoo])
    command = [sys.executable, "-m", "pytest", f"--headswap-zoo={zoo}", "-n", "2", "-q"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ))
    print(run.stdout[-5000:])
    with (tmp_path / "headswap-report" / "results.jsonl").open() as lines:
        results = [json.loads(line) for line in lines][1:]
    from pytest_headswap.zoo import load_zoo

    assert {result["model"] for result in results} == set(load_zoo(zoo).names)
    unexpected, unused = compare(results, tomllib.loads((HERE / f"{zoo}.toml").read_text())["expect"])
    assert not unexpected
    assert not unused
    assert run.returncode == (1 if any(result["outcome"] == "failed" for result in results) else 0)


def compare(results: list[dict[str, Any]], entries: list[dict[str, str]]) -> tuple[list[str], list[str]]:
    """The results that nothing explains, and the entries that explain nothing."""
    used: Counter[int] = Counter()
    unexpected = []
    for result in results:
        fitting = [index for index, entry in enumerate(entries) if _fits(entry, result)]
        used.update(fitting)
        if not fitting and result["outcome"] != "passed":
            unexpected.append(f"{result['nodeid']}: {result['outcome']} [{result['reason']}] {result['message']}")
    return unexpected, [entry["model"] for index, entry in enumerate(entries) if not used[index]]


def _fits(entry: dict[str, str], result: dict[str, Any]) -> bool:
    return (
        fnmatchcase(result["model"], entry["model"])
        and fnmatchcase(result["check"], entry.get("check", "*"))
        and result["outcome"] == entry["outcome"]
        and result["reason"] == entry.get("code", "")
        and fnmatchcase(result["message"], entry.get("message", "*"))
    )


def test_a_result_that_is_not_listed_and_an_entry_that_is_not_needed_are_both_told() -> None:
    result = {"nodeid": "z::a::c", "model": "a", "check": "c", "outcome": "skipped", "reason": "r", "message": "m"}
    fits = {"model": "a*", "outcome": "skipped", "code": "r", "reason": "why"}
    assert compare([result], [fits]) == ([], [])
    assert compare([result], []) == (["z::a::c: skipped [r] m"], [])
    assert compare([result], [fits, {**fits, "code": "s"}]) == ([], ["a*"])
    assert compare([{**result, "outcome": "passed"}], [fits]) == ([], ["a*"])
    assert compare([{**result, "outcome": "failed"}], [fits]) == (["z::a::c: failed [r] m"], ["a*"])
    assert compare([result], [{**fits, "message": "m*"}]) == ([], [])
    assert compare([result], [{**fits, "message": "n*"}]) == (["z::a::c: skipped [r] m"], ["a*"])
