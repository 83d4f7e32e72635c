"""Annotations of GitHub name the worst architectures, as many as GitHub shows, and say how many are left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_headswap.cli.main import main
from pytest_headswap.report.annotations import MAX_ERRORS, github_annotations
from pytest_headswap.results import JournalHeader, Result
from pytest_headswap.results.completeness import encode_selection
from pytest_headswap.results.matrix import build_matrix
from tests.journals import CHECKS, HARM, harmful, result, write_journal

COMMAND = re.compile(r"::(error|warning) ((?:\w+=[^:,]*)(?:,\w+=[^:,]*)*)::(.*)")


def _annotations(
    results: list[Result], workspace: str = "/work", **header: object
) -> list[tuple[str, dict[str, str], str]]:
    """Return the annotations as GitHub reads them."""
    matrix = build_matrix(JournalHeader(**header), results)  # type: ignore[arg-type]
    found = []
    for line in github_annotations(matrix, {"GITHUB_WORKSPACE": "/work"}):
        assert "\n" not in line
        command = COMMAND.fullmatch(line)
        assert command is not None, line
        properties = dict(part.split("=", 1) for part in command[2].split(","))
        found.append((command[1], {name: _read(text) for name, text in properties.items()}, _read(command[3])))
    return found


def _read(text: str) -> str:
    for code, char in (("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, char)
    return text


def test_an_annotation_has_title_message_and_command() -> None:
    results = [result("m", check, "failed", message="50% of 3,\nbad: yes") for check in CHECKS[:2]]
    assert _annotations([*results, result("m", CHECKS[2]), result("fine")]) == [
        (
            "error",
            {"title": "timm::m: failed (output_shape, native_parity)"},
            f"50% of 3,\nbad: yes\nRepeat with: {results[0].repro}",
        )
    ]


@pytest.mark.parametrize(
    ("traceback", "place"),
    [
        ('  File "/work/src/net.py", line 12, in forward', {"file": "src/net.py", "line": "12"}),
        ('  File "/work/a.py", line 1, in x\n  File "/work/b.py", line 2, in y', {"file": "b.py", "line": "2"}),
        ('  File "/work/a.py", line 1, in x\n  File "/lib/b.py", line 2, in y', {"file": "a.py", "line": "1"}),
        ('  File "/work/venv/site-packages/timm/x.py", line 2, in y', {}),
        ('  File "/elsewhere/a.py", line 1, in x', {}),
        ('  File "/work/a,b:c%.py", line 1, in x', {"file": "a,b:c%.py", "line": "1"}),
        ('  File "relative.py", line 1, in x', {}),
        ("", {}),
    ],
)
def test_an_annotation_is_at_the_innermost_frame_in_the_repository(traceback: str, place: dict[str, str]) -> None:
    ((_, properties, _),) = _annotations([result("m", outcome="error", traceback=traceback)])
    assert {name: text for name, text in properties.items() if name != "title"} == place


def test_the_place_may_come_from_another_check_of_the_model() -> None:
    found = [result("m", outcome="crashed"), result("m", "metadata", "error", traceback='  File "/work/a.py", line 3')]
    ((_, properties, _),) = _annotations(found)
    assert properties["line"] == "3"


def test_the_worst_come_first_and_the_rest_is_counted() -> None:
    results = [result(f"m{number:02}", outcome="failed") for number in range(30)]
    found = _annotations([*results, result("worst", outcome="crashed")])
    assert [kind for kind, _, _ in found] == ["error"] * MAX_ERRORS + ["warning"]
    assert found[0][1]["title"].startswith("timm::worst: crashed")
    assert found[-1][2] == "21 more architectures of 31 that need attention: the report lists all of them"
    assert len(_annotations(results[:MAX_ERRORS])) == MAX_ERRORS


def test_a_run_that_lacks_results_says_so_even_if_nothing_failed() -> None:
    selected = encode_selection([("timm", "m", "output_shape"), ("timm", "n", "output_shape")])
    ((kind, properties, message),) = _annotations([result("m")], selected=selected)
    assert (kind, properties["title"]) == ("warning", "headswap: incomplete")
    assert message == "1 of 2 selected results is missing: timm::n::output_shape"


def test_a_run_without_failures_has_no_annotations() -> None:
    assert not _annotations([result("m"), result("n", outcome="xfailed"), result("o", outcome="skipped")])


@pytest.mark.parametrize("text", [*HARM, "::error::no", "%0A::error::no", "a%25b", "\r::set-env name=x::y"])
def test_hostile_text_starts_no_second_command(text: str) -> None:
    found = _annotations([result(text, text, "failed", message=text * 3, zoo=text, repro=text), *harmful()])
    assert [kind for kind, _, _ in found if kind == "error"] == ["error"] * min(MAX_ERRORS, len(found))


def test_messages_are_bounded() -> None:
    ((_, properties, message),) = _annotations([result("m" * 5000, outcome="failed", message="x" * 100_000, repro="y")])
    assert len(properties["title"]) <= 200
    assert len(message) < 2100


def test_an_existing_journal_is_annotated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_journal(tmp_path / "run", [result("a", outcome="failed", message="no")])
    assert main(["report", str(folder), "--annotations"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("::error title=timm%3A%3Aa%3A failed (output_shape)::no")
