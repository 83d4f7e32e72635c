"""A journal holds the code that led to an error, how large a zoo is, and the commit of its code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.harness.failure_text import failure_traceback
from pytest_headswap.plugin.recording.commits import commits_of
from pytest_headswap.results import JournalHeader, Result, read_journal
from pytest_headswap.zoo.entry_code import ZooOrigins

Journal = Callable[..., dict[str, Result]]
GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]


def test_an_error_keeps_the_frames_of_the_model_once_for_each_model(project: pytest.Pytester, journal: Journal) -> None:
    project.runpytest_inprocess("testzoo::unbuildable", "testzoo::raising", "--headswap-checks=metadata,state_dict")
    results = journal()
    first, second = (results[f"testzoo::unbuildable::{check}"] for check in ("metadata", "state_dict"))
    assert "in unbuildable\n" in first.traceback
    assert 'raise ValueError("no such depth")' in first.traceback
    assert first.traceback.endswith("ValueError: no such depth")
    assert second.traceback == ""
    raising = results["testzoo::raising::metadata"].traceback
    assert "in forward\n" in raising
    assert raising.endswith("RuntimeError: the forward of this model raises")
    header, _ = read_journal(project.path / "headswap-report")
    assert header.zoos["testzoo"]["architectures"] > 2


def test_the_stack_of_a_lost_process_is_kept(project: pytest.Pytester, journal: Journal) -> None:
    project.makepyfile(
        dying="import os\nfrom torch import nn\nclass Dying(nn.Linear):\n"
        "    def forward(self, x):\n        if x.device.type != 'meta':\n            os.abort()\n"
        "        return super().forward(x)\nZOO = {'dying': lambda: Dying(8, 10)}\n"
    )
    project.runpytest_inprocess("--headswap-zoo=dying:ZOO", "--headswap-checks=output_shape")
    (result,) = journal().values()
    assert result.outcome == "crashed"
    assert result.traceback.endswith("os.abort()")
    assert "dying.py" in result.traceback


def _raised(raise_it: Callable[[], None]) -> BaseException:
    try:
        raise_it()
    except BaseException as error:  # noqa: BLE001
        return error
    raise AssertionError


def test_a_fault_that_a_check_found_has_no_traceback() -> None:
    def fail() -> None:
        raise CheckFailed("7 is not 8")

    assert failure_traceback(_raised(fail)) == ""


def test_a_traceback_is_short_whatever_the_model_raises() -> None:
    def deep(left: int = 500) -> None:
        if left:
            deep(left - 1)
        raise ValueError("x" * 100_000)

    text = failure_traceback(_raised(deep))
    assert len(text) <= 4_000
    assert "in deep" in text, "a long message leaves room for the frames"
    circular = _raised(deep)
    circular.__cause__ = circular
    assert failure_traceback(circular)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a module in a git checkout."""
    file = tmp_path / "zoo_in_git.py"
    file.write_text("ZOO = {}\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*GIT, *command], cwd=tmp_path, check=True)
    module = ModuleType("zoo_in_git")
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "zoo_in_git", module)
    return file


def test_the_commit_of_a_checkout_is_known_and_whether_it_was_changed(checkout: Path) -> None:
    commit = subprocess.run(
        [*GIT, "rev-parse", "HEAD"], cwd=checkout.parent, check=True, capture_output=True, text=True
    ).stdout
    changed, copy = checkout.with_name("changed.py"), checkout.with_name("copy.py")
    assert commits_of(ZooOrigins(frozenset(["zoo_in_git"]))) == {"zoo_in_git": commit.strip()}
    copy.write_text("ZOO = {}\n")
    assert commits_of(ZooOrigins(frozenset([str(copy)]))) == {}, "git does not track it, as an environment inside"
    changed.write_text("ZOO = {1: 1}\n")
    subprocess.run([*GIT, "add", changed.name], cwd=checkout.parent, check=True)
    assert commits_of(ZooOrigins(frozenset([str(changed)]))) == {"changed": f"{commit.strip()} with changes"}


def test_the_commit_that_pip_installed_from_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "from_git-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: from_git\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    origins = ZooOrigins(frozenset(), "from_git")
    for text, expected in [
        (json.dumps({"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": "a" * 40}}), {"from_git": "a" * 40}),
        (json.dumps({"url": "https://x", "archive_info": {}}), {}),
        ("not json", {}),
        ("[]", {}),
    ]:
        (info / "direct_url.json").write_text(text)
        assert commits_of(origins) == expected


def test_a_header_with_zoos_is_read_back(tmp_path: Path) -> None:
    header = JournalHeader(zoos={"timm": {"architectures": 3, "commits": {"timm": "abc"}}}).to_json()
    (tmp_path / "results.jsonl").write_text(json.dumps(header) + "\n")
    assert read_journal(tmp_path)[0].zoos["timm"] == {"architectures": 3, "commits": {"timm": "abc"}}
