"""Run the commands of the reusable GitHub workflow that find the last run, compare with it, and comment."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_headswap.results import JournalHeader, Outcome, Result, read_journal
from tests import fake_gh
from tests.journals import result, write_journal
from tests.test_workflows import run, step

FIND = step("headswap.yml", "plan", "Find the last run and get its journal")
COMPARE = step("headswap.yml", "merge", "Compare with the last run")
COMMENT = step("headswap.yml", "comment", "Comment on the pull request")
BOT = {"login": "github-actions[bot]"}
MARK = "<!-- headswap: head swaps -->"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory in which `gh` talks to a fake GitHub."""
    commands = tmp_path / "bin"
    commands.mkdir()
    gh = commands / "gh"
    gh.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake_gh.__file__}" "$@"\n', encoding="utf-8")
    gh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/library")
    return tmp_path


def github(folder: Path, **state: Any) -> None:
    (folder / "github.json").write_text(json.dumps({"artifacts": [], "comments": [], **state}), encoding="utf-8")


def comments(folder: Path) -> list[str]:
    found = json.loads((folder / "github.json").read_text(encoding="utf-8"))["comments"]
    return [comment["body"] for comment in found]


def artifact(number: int, day: int, branch: str = "main", **changes: Any) -> dict[str, Any]:
    run = {"id": 1000 + number, "repository_id": 1, "head_repository_id": 1, "head_branch": branch}
    run |= {name: changes.pop(name) for name in ("head_repository_id",) if name in changes}
    created = f"2026-11-{day:02}T03:00:00Z"
    name = "headswap-report"
    return {"id": number, "name": name, "expired": False, "created_at": created, "workflow_run": run, **changes}


def zipped(folder: Path, results: Iterable[Result] = (), name: str = "results.jsonl") -> str:
    journal = write_journal(folder / "zipped", results) / "results.jsonl"
    with zipfile.ZipFile(folder / "report.zip", "w") as file:
        file.write(journal, name)
        file.writestr("index.html", "a page")
    return "report.zip"


def find(folder: Path, event: str = "pull_request", sample: str = "", verify: str = "") -> dict[str, str]:
    """Run the step; return its outputs."""
    values = {
        "github.token": "secret",
        "github.event_name": event,
        "github.base_ref || github.ref_name": "main",
        "github.server_url": "https://github.com",
        "github.repository": "owner/library",
        "inputs.name": "headswap",
        "inputs.sample": sample,
        "inputs.verify": verify,
    }
    (folder / "output").unlink(missing_ok=True)
    done = run(FIND, folder, values)
    assert done.returncode == 0
    lines = (folder / "output").read_text(encoding="utf-8").splitlines()
    outputs = dict(line.split("=", 1) for line in lines)
    assert outputs.keys() == {"run", "flags", "note"}
    assert outputs["note"] in done.stdout, "the log of the run says the same"
    return outputs


def test_the_last_run_is_the_newest_on_the_branch_whose_report_is_not_expired(folder: Path) -> None:
    others = [
        artifact(1, day=20),
        artifact(2, day=29, branch="feature"),
        artifact(3, day=28, head_repository_id=2),  # a fork, with a branch of the same name
        artifact(4, day=27, expired=True),
        artifact(6, day=29, name="headswap-pull-request"),
    ]
    github(folder, artifacts=[*others, artifact(7, day=26)], zips={"7": zipped(folder, [result("a")])})
    found = find(folder)
    assert found == {
        "run": "1007",
        "flags": "--headswap-since=headswap-last",
        "note": "Compared with [the run on `main` of 2026-11-26T03:00:00Z]"
        "(https://github.com/owner/library/actions/runs/1007).",
    }
    assert [item.model for item in read_journal(folder / "results.jsonl")[1]] == ["a"]


@pytest.mark.parametrize(
    ("state", "reason", "sample"),
    [
        ({}, "no run on this branch has a report that is not expired", ""),
        (
            {"artifacts": [artifact(7, 26, expired=True)]},
            "no run on this branch has a report that is not expired",
            "5%",
        ),
        ({"artifacts": [artifact(7, 26)], "gone": ["7"]}, "gh: Artifact has expired (HTTP 410)", "family"),
        ({"artifacts": [artifact(7, 26)], "zips": {"7": "other.zip"}}, "There is no item named 'results.jsonl' in", ""),
        ({"artifacts": [artifact(7, 26)], "zips": {"7": "github.json"}}, "File is not a zip file", ""),
        ({"forbidden": ["actions"]}, "(HTTP 403); the calling job needs the permission `actions: read`", ""),
    ],
)
def test_without_an_earlier_run_everything_or_the_sample_runs_and_the_note_says_why(
    folder: Path, state: dict[str, Any], reason: str, sample: str
) -> None:
    shutil.move(folder / zipped(folder, name="summary.md"), folder / "other.zip")
    github(folder, **state)
    found = find(folder, sample=sample)
    assert found["run"] == ""
    assert found["flags"] == (f"--headswap-sample={sample}" if sample else "")
    assert found["note"].startswith("No earlier results of `main` are used: ")
    assert reason in found["note"]
    assert found["note"].endswith(f"A sample ({sample}) runs." if sample else "All models run.")


@pytest.mark.parametrize(
    ("event", "sample", "verify", "flags"),
    [
        ("pull_request", "family", "", "--headswap-sample=family --headswap-since=headswap-last"),
        ("pull_request", "", "5%", "--headswap-since=headswap-last"),
        ("schedule", "family", "", ""),
        ("push", "", "5%", "--headswap-since=headswap-last --headswap-since-verify=5%"),
    ],
)
def test_the_event_decides_what_runs(folder: Path, event: str, sample: str, verify: str, flags: str) -> None:
    github(folder, artifacts=[artifact(7, day=26)], zips={"7": zipped(folder)})
    found = find(folder, event, sample, verify)
    assert found["flags"] == flags
    assert found["note"].startswith("Compared with")


def compare(folder: Path, old: Sequence[Result] | None, new: Sequence[Result] | None) -> str:
    """Run the step on two journals; return what it wrote."""
    for name, results in (("headswap-last", old), ("headswap-report", new)):
        if results is not None:
            write_journal(folder / name, results)
    (folder / "step_summary").unlink(missing_ok=True)
    values = {"needs.plan.outputs.run": "" if old is None else "7", "needs.plan.outputs.note": "Compared with `it`."}
    assert run(COMPARE, folder, values).returncode == 0
    text = (folder / "changes.md").read_text(encoding="utf-8")
    assert (folder / "step_summary").read_text(encoding="utf-8") == text
    assert text.endswith("\n\nCompared with `it`.\n")
    return text


def test_the_changes_are_what_is_broken_fixed_or_changed(folder: Path) -> None:
    outcomes: list[tuple[Outcome, Outcome]] = [("passed", "passed"), ("passed", "failed"), ("error", "passed")]
    old = [result(f"m{number}", outcome=before) for number, (before, _) in enumerate(outcomes)]
    new = [result(f"m{number}", outcome=after) for number, (_, after) in enumerate(outcomes)]
    text = compare(folder, old, new)
    assert text.startswith("**Head swaps**: 3 shared results: 1 broken, 1 fixed\n")
    assert "timm::m0" not in text
    assert compare(folder, old, old).startswith("**Head swaps**: 3 shared results: nothing changed\n\n")
    assert compare(folder, old, [*old[1:], old[0]]).count("\n") == 5


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (None, [result("a")], "not compared."),
        ([result("a")], [result("b")], "the two runs have no results in common"),
        ([result("a")], None, "cannot read the journal headswap-report"),
        ([], [result("a")], "the two runs have no results in common"),
    ],
)
def test_the_changes_say_if_nothing_was_compared(
    folder: Path, old: list[Result] | None, new: list[Result] | None, reason: str
) -> None:
    text = compare(folder, old, new)
    assert text.startswith("**Head swaps**: not compared")
    assert reason in text


def comment(folder: Path) -> str:
    """Run the step; return what it printed."""
    values = {"github.token": "secret", "github.event.pull_request.number": "5", "inputs.name": "headswap"}
    values |= {"github.server_url": "https://github.com", "github.repository": "owner/library", "github.run_id": "77"}
    done = run(COMMENT, folder, values)
    assert done.returncode == 0
    return done.stdout


def test_one_comment_is_written_and_later_pushes_update_it(folder: Path) -> None:
    theirs: list[dict[str, Any]] = [
        {"id": 1, "user": {"login": "somebody"}, "body": f"{MARK}\nnot ours"},
        {"id": 2, "user": BOT, "body": "of another workflow"},
        {"id": 3, "user": None, "body": ""},
        *({"id": 10 + number, "user": {"login": "a"}, "body": "more than a page"} for number in range(150)),
    ]
    github(folder, comments=theirs)
    for text in ("one", "two", "three"):
        (folder / "changes.md").write_text(f"{text}\n", encoding="utf-8")
        assert comment(folder) == ""
        *others, ours = comments(folder)
        assert others == [each["body"] for each in theirs]
        assert ours == f"{MARK}\n{text}\n\n[Report of this run](https://github.com/owner/library/actions/runs/77)\n"


@pytest.mark.parametrize("forbidden", ["POST", "issues"])
def test_without_the_permission_to_comment_the_step_summary_has_the_text(folder: Path, forbidden: str) -> None:
    github(folder, forbidden=[forbidden])
    (folder / "changes.md").write_text("what changed\n", encoding="utf-8")
    printed = comment(folder)
    assert printed.startswith("::warning title=headswap::No comment was written: gh: Resource not accessible by")
    assert "`pull-requests: write`" in printed
    assert comments(folder) == []
    assert (folder / "step_summary").read_text(encoding="utf-8").startswith("what changed\n")


def test_a_comment_that_may_not_be_updated_is_a_warning_too(folder: Path) -> None:
    github(folder, comments=[{"id": 1, "user": BOT, "body": f"{MARK}\nold"}], forbidden=["PATCH"])
    (folder / "changes.md").write_text("what changed\n", encoding="utf-8")
    assert "No comment was written" in comment(folder)
    assert comments(folder) == [f"{MARK}\nold"]


def test_a_run_without_a_report_is_named_in_the_comment(folder: Path) -> None:
    github(folder)
    assert comment(folder) == ""
    assert "the run made no report to compare" in comments(folder)[0]


def test_the_largest_comment_is_accepted(folder: Path) -> None:
    names = ["|<@" * 60 + str(number) for number in range(300)]
    bad = [result(name, outcome="failed", message="模型🙂|" * 100, repro="x" * 2000) for name in names]
    compare(folder, [result(name) for name in names], bad)
    github(folder)
    assert comment(folder) == ""
    assert "300 broken" in comments(folder)[0]


@pytest.mark.slow
def test_a_pull_request_takes_over_what_the_last_run_found(folder: Path) -> None:
    def shard(flags: str) -> None:
        values = {"inputs.zoo": "builtin", "inputs.models": "conv_*", "matrix.shard": "1", "inputs.shards": "1"}
        values |= {"inputs.expectations": "", "inputs.options": "-q", "needs.plan.outputs.flags": flags}
        assert run(step("headswap.yml", "shard", "Test the shard"), folder, values).returncode == 0

    shard("")
    header, results = read_journal(folder / "headswap-report")
    shutil.rmtree(folder / "headswap-report")
    changed = [result for result in results if result.check != "metadata"]
    github(folder, artifacts=[artifact(7, day=26)], zips={"7": zipped_journal(folder, header, changed)})
    found = find(folder)
    write_journal(folder / "headswap-last", changed, read_journal(folder / "results.jsonl")[0])
    shard(found["flags"])
    _, again = read_journal(folder / "headswap-report")
    assert {item.check for item in again if not item.taken_over} == {"metadata"}
    values = {"needs.plan.outputs.run": found["run"], "needs.plan.outputs.note": found["note"]}
    assert run(COMPARE, folder, values).returncode == 0
    assert comment(folder) == ""
    assert f"{len(changed)} taken over: nothing changed" in comments(folder)[0]
    assert found["note"] in comments(folder)[0]


def zipped_journal(folder: Path, header: JournalHeader, results: list[Result]) -> str:
    journal = write_journal(folder / "zipped", results, header) / "results.jsonl"
    with zipfile.ZipFile(folder / "report.zip", "w") as file:
        file.write(journal, "results.jsonl")
    return "report.zip"
