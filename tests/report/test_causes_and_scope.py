"""A report says what it is of, and lists the causes of bad results: one row for each, the worst first."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_headswap.report import html
from pytest_headswap.report.architecture_page import PAGE_IDS, anchor
from pytest_headswap.report.scope import Fact, facts
from pytest_headswap.report.write import write_reports
from pytest_headswap.results import JournalHeader, Result
from pytest_headswap.results.causes import find_causes
from pytest_headswap.results.completeness import encode_selection
from pytest_headswap.results.ids import repeat_checks
from pytest_headswap.results.matrix import build_matrix
from tests.journals import CHECKS, result
from tests.report.decode import data_of, rows_of

Write = Callable[..., Path]
TWO = JournalHeader(
    {"torch": "2.15.0", "timm": "1.0.31"},
    {"checks": list(CHECKS)},
    started="2026-11-29T01:48:52+00:00",
    python="3.12.1",
    zoos={"timm": {"architectures": 2, "commits": {"timm": "3f2a91c0b1d2e3f4 with changes"}}},
)


def _whole(*names: str) -> list[Result]:
    return [result(name, check) for name in names for check in CHECKS]


def _facts(header: JournalHeader, results: list[Result]) -> dict[str, str]:
    return {fact.name: fact.text for fact in facts(build_matrix(header, results))}


def test_a_report_says_what_it_is_of() -> None:
    assert _facts(TWO, _whole("a", "b")) == {
        "Zoo": "timm",
        "Library": "timm 1.0.31 (commit 3f2a91c0b1 with changes)",
        "torch": "2.15.0",
        "Python": "3.12.1",
        "Run": "2026-11-29 01:48 UTC, 4.0 s of tests",
        "Scope": "Whole: all 2 architectures, all default checks",
    }


@pytest.mark.parametrize(
    ("changes", "results", "expected"),
    [
        ({}, _whole("a"), "Partial: 1 of 2 architectures of timm"),
        ({"options": {"shard": "1/2"}}, _whole("a"), "Partial: 1 of 2 architectures of timm; shard 1/2"),
        ({"options": {"sample": "1"}}, _whole("a"), "A sample: --headswap-sample=1; 1 of 2 architectures of timm"),
        ({}, _whole("a", "b")[:-1], "Partial: not every check of every architecture"),
        ({"zoos": {}}, _whole("a", "b"), "2 architectures; the journal does not say how many there are"),
        ({}, [result(name, CHECKS[0]) for name in "ab"], f"Partial: without {', '.join(CHECKS[1:])}"),
        (
            {"selected": encode_selection(("timm", name, check) for name in "ab" for check in CHECKS)},
            _whole("a"),
            "Incomplete: results are missing",
        ),
        ({"zoos": {**TWO.zoos, "own": {"architectures": 3}}}, _whole("a", "b"), "Partial: 0 of 3 architectures of own"),
        ({}, [], "Partial: 0 of 2 architectures of timm"),
    ],
)
def test_a_run_that_is_not_whole_is_called_so(changes: dict[str, object], results: list[Result], expected: str) -> None:
    header = replace(TWO, **changes)  # type: ignore[arg-type]
    (fact,) = (fact for fact in facts(build_matrix(header, results)) if fact.name == "Scope")
    assert fact == Fact("Scope", expected, whole=False)


def test_results_of_earlier_runs_are_counted_at_the_top() -> None:
    old = [replace(item, taken_over="2026-11-01T10:00:00+00:00") for item in _whole("a")]
    text = _facts(TWO, [*old, *_whole("b")])["Taken over"]
    assert text == "8 of 16 results, from 1 earlier run (2026-11-01 10:00 UTC)"


def test_one_cause_is_one_entry_whatever_the_model_the_check_and_the_numbers() -> None:
    said = "resnet{} failed in {} with 7 classes on (2, {})"
    results = [
        result("resnet18", "metadata", "error", message=said.format(18, "metadata", 32)),
        result("resnet18", "state_dict", "error", message=said.format(18, "state_dict", 32)),
        result("resnet50", "metadata", "error", message=f"not run: {said.format(50, 'state_dict', 64)}"),
        result("resnet50", "round_trip", "crashed", message=said.format(50, "round_trip", 64)),
        result("resnet50", "output_shape"),
        result("none", outcome="skipped", message="no head"),
    ]
    crashed, error, skipped = find_causes(results)
    assert (crashed.first.outcome, len(crashed.results), crashed.numbers_differ) == ("crashed", 1, False)
    assert (error.checks, list(error.models)) == (
        ("metadata", "state_dict"),
        [("timm", "resnet18"), ("timm", "resnet50")],
    )
    assert error.numbers_differ
    assert not skipped.needs_attention
    assert find_causes(reversed(results))[0].code == crashed.code, "a link to a cause stays valid"


@pytest.mark.parametrize("name", ["", "a", "(", "\x01", "\\", "7", "é"])
def test_causes_can_be_found_for_any_name(name: str) -> None:
    (cause,) = find_causes([result(name, name, "failed", message=f"a {name} is not \\1 {name}")])
    assert cause.first.model == name


def test_the_page_lists_causes_with_their_architectures(write: Write) -> None:
    results = [result(f"m{n}", "metadata", "failed", message=f"stale in m{n}") for n in range(9)]
    results += [result("m0", check, "timeout", message="too slow") for check in CHECKS if check != "metadata"]
    folder = write([*results, result("fine", outcome="skipped", message="no head")], header=TWO)
    write_reports(folder, folder)
    text = (folder / "index.html").read_text(encoding="utf-8")
    slow, stale, skip = (part.partition("</li>")[0] for part in text.split('<li class="cause"')[1:])
    assert ("too slow" in slow, "stale in m0" in stale, "no head" in skip) == (True, True, True)
    assert "and 3 more" in stale
    assert re.search(r'href="architectures/m5-[0-9a-f]{12}\.html#metadata"', stale)
    data = data_of(folder / "index.html")
    shown = {
        row.name: {data["causes"][number] for cell in row.cells if cell for number in cell[5]} for row in rows_of(data)
    }
    code = re.search(r'id="cause-(\w+)"', stale)
    assert code is not None
    assert {name for name, codes in shown.items() if code[1] in codes} == {f"m{n}" for n in range(9)}


def test_a_message_that_many_models_share_is_stored_once(write: Write) -> None:
    folder = write([result(f"m{n}", outcome="failed", message=f"the head of m{n} is lost") for n in range(50)])
    write_reports(folder, folder)
    assert data_of(folder / "index.html")["messages"] == ["", "the head of \x01 is lost"]


def test_a_large_report_has_pages_for_the_worst_and_says_so(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MAX_PAGES", 4)
    results = [result(f"fine{n}") for n in range(8)]
    results += [result(f"bad{n}", outcome="failed", message="no") for n in range(3)]
    results += [result(f"none{n}", outcome="skipped", message="none") for n in range(3)]
    folder = write(results)
    write_reports(folder, folder)
    names = [path.name.partition("-")[0] for path in sorted((folder / "architectures").iterdir())]
    assert names == ["bad0", "bad1", "bad2", "none0"]
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "4 architectures of 14 have pages" in text
    with_pages = {row.name for row in rows_of(data_of(folder / "index.html")) if row.page}
    assert with_pages == {"bad0", "bad1", "bad2", "none0"}
    monkeypatch.setattr(html, "MAX_PAGES", 2)
    write_reports(folder, folder)
    assert len(list((folder / "architectures").iterdir())) == 2


def test_a_page_has_one_block_for_a_cause_with_traceback_and_one_command(write: Write) -> None:
    trace = '  File "/zoo.py", line 3, in forward\n    <b>\nRuntimeError: no'
    results = [
        result("m", check, "error", message="no", traceback="" if n else trace) for n, check in enumerate(CHECKS)
    ]
    folder = write([*results, result("m", "own check", "failed", message="also"), result("next", outcome="failed")])
    write_reports(folder, folder)
    (path,) = (folder / "architectures").glob("m-*")
    text = path.read_text(encoding="utf-8")
    assert text.count('<article class="block') == 2
    assert text.count("&lt;b&gt;\nRuntimeError: no") == 1
    assert text.count("https://pytest-headswap.readthedocs.io/en/stable/checks/#") == len(CHECKS)
    assert f'id="{anchor("own check")}"' in text
    assert "class=next-failing" in text
    (command,) = re.findall(r"<h2 id=\"repeat-title\">.*?<code>(.*?)</code>", text, re.DOTALL)
    assert command.endswith(f"--headswap-checks={','.join([*CHECKS, 'own check'])}&#39;")


@pytest.mark.parametrize("name", [*PAGE_IDS, "", "own check", "a\"b'c<", "é", "..", "x" * 500])
def test_an_anchor_is_a_valid_id_that_the_page_does_not_use(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,80}", anchor(name))
    assert anchor(name) not in PAGE_IDS
    assert anchor(name) != anchor(f"{name} ")


@pytest.mark.parametrize("name", CHECKS)
def test_the_anchor_of_a_check_is_its_name(name: str) -> None:
    assert anchor(name) == name


@pytest.mark.parametrize(
    ("command", "checks", "expected"),
    [
        ("pytest --headswap-checks=a --x='b c'", ["a", "d"], "pytest --headswap-checks=a,d '--x=b c'"),
        ("pytest --headswap-checks=a --x", [], "pytest --x"),
        ("no such option", ["a"], "no such option"),
        ("open 'quote", ["a"], "open 'quote"),
        ("", ["a"], ""),
    ],
)
def test_a_command_can_repeat_other_checks(command: str, checks: list[str], expected: str) -> None:
    assert repeat_checks(command, checks) == expected
