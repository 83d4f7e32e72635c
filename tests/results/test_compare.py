"""Two runs are compared result by result; noise of clocks is no change, and what broke is never left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_headswap.report.comparison import format_markdown, format_text, headline
from pytest_headswap.results import OUTCOMES, Outcome, Result
from pytest_headswap.results.compare import Thresholds, compare
from pytest_headswap.results.result import FAILURES
from tests.journals import CHECKS, HARM, result


def _kind(old: Outcome | None, new: Outcome) -> str:
    comparison = compare([] if old is None else [result("m", outcome=old)], [result("m", outcome=new)])
    found = [name for name in ("broken", "fixed", "changed") if getattr(comparison, name)]
    assert len(found) <= 1
    return "".join(found)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("passed", "failed", "broken"),
        ("passed", "crashed", "broken"),
        ("skipped", "error", "broken"),
        ("xfailed", "failed", "broken"),
        ("failed", "passed", "fixed"),
        ("timeout", "passed", "fixed"),
        ("xfailed", "xpassed", "fixed"),
        ("passed", "skipped", "changed"),
        ("passed", "xfailed", "changed"),
        ("failed", "error", "changed"),
        ("failed", "skipped", "changed"),
        ("skipped", "passed", "changed"),
        ("passed", "xpassed", ""),
        (None, "failed", "broken"),
        (None, "passed", ""),
        (None, "skipped", ""),
    ],
)
def test_a_change_is_reported_for_what_it_is(old: Outcome | None, new: Outcome, kind: str) -> None:
    assert _kind(old, new) == kind


@pytest.mark.parametrize("new", OUTCOMES)
@pytest.mark.parametrize("old", [None, *OUTCOMES])
def test_what_is_bad_and_was_not_always_counts_as_broken(old: Outcome | None, new: Outcome) -> None:
    assert (_kind(old, new) == "broken") == (new in FAILURES and old not in FAILURES)
    if old == new:
        assert _kind(old, new) == ""


def test_what_is_no_longer_there_is_named() -> None:
    comparison = compare([result("a"), result("b")], [result("b")])
    assert [item.result.model for item in comparison.removed] == ["a"]
    assert not comparison.broken
    assert comparison.shared == 1


def test_the_worst_comes_first() -> None:
    new = [result("a", outcome="error"), result("b", outcome="crashed"), result("c", outcome="failed")]
    assert [item.result.model for item in compare([], new).broken] == ["b", "c", "a"]


def test_of_a_result_that_is_there_twice_the_worse_one_counts() -> None:
    comparison = compare([result("a")], [result("a", outcome="failed"), result("a")])
    assert [item.result.outcome for item in comparison.broken] == ["failed"]


def test_versions_are_compared_each_with_itself() -> None:
    old = [result("a", version="torch 2.8"), result("a", version="torch 2.9", outcome="failed")]
    new = [result("a", version="torch 2.8", outcome="failed"), result("a", version="torch 2.9")]
    comparison = compare(old, new)
    assert [item.result.version for item in comparison.broken] == ["torch 2.8"]
    assert [item.result.version for item in comparison.fixed] == ["torch 2.9"]


def _run(**seconds: float) -> list[Result]:
    return [result(name, seconds=took) for name, took in seconds.items()]


def test_a_model_is_slower_where_both_the_factor_and_the_seconds_are_passed() -> None:
    old = _run(a=10, b=10, c=0.1, d=100)
    comparison = compare(old, _run(a=21, b=14.9, c=9, d=104))
    assert [(item.model, item.old, item.new, item.unit) for item in comparison.slower] == [("a", 10, 21, "s")]
    assert comparison.speed_ratio is None, "four models do not tell how fast a machine is"
    wide = compare(old, _run(a=21, b=14.9, c=9, d=104), Thresholds(max_slowdown=1.4, min_seconds=1))
    assert [item.model for item in wide.slower] == ["c", "a", "b"], "the largest factor first"


def test_the_time_of_a_model_is_that_of_all_its_checks() -> None:
    old = [result("a", check, seconds=3) for check in CHECKS]
    new = [result("a", check, seconds=27 if check == "metadata" else 3) for check in CHECKS]
    (found,) = compare(old, new).slower
    assert (found.old, found.new, found.factor) == (24, 48, 2)


def test_a_slower_machine_makes_no_model_slower() -> None:
    names = [f"m{number}" for number in range(20)]
    old = _run(**dict.fromkeys(names, 10.0))
    new = _run(**dict.fromkeys(names, 25.0))
    assert compare(old, new).slower == ()
    assert compare(old, new).speed_ratio == 2.5
    new[3] = replace(new[3], seconds=60)
    assert [item.model for item in compare(old, new).slower] == ["m3"]


def test_a_model_that_stopped_short_is_neither_slower_nor_larger() -> None:
    old, new = [result("a", outcome="error", seconds=1)], [result("a", seconds=100, peak_memory_mb=9000)]
    assert not compare(old, new).slower
    assert not compare(old, new).larger
    fewer = [result("a", seconds=1)]
    more = [result("a", seconds=1), result("a", "metadata", seconds=100)]
    assert not compare(fewer, more).slower


def test_a_model_is_larger_where_both_the_factor_and_the_megabytes_are_passed() -> None:
    def run(**peaks: float | None) -> list[Result]:
        return [result(name, peak_memory_mb=peak) for name, peak in peaks.items()]

    comparison = compare(run(a=1000, b=100, c=9000, d=None, e=0), run(a=1300, b=250, c=9300, d=9000, e=5000))
    assert [(item.model, item.unit) for item in comparison.larger] == [("a", "MB")]


def test_two_equal_runs_have_nothing_to_tell() -> None:
    comparison = compare(_run(a=1), _run(a=1))
    assert headline(comparison) == "1 shared result: nothing changed"
    assert list(format_text(comparison)) == ["1 shared result: nothing changed"]


def test_it_is_explained_with_the_line_to_paste() -> None:
    old = [result("a"), result("b", outcome="failed"), result("gone")]
    new = [
        result("a", outcome="failed", message="7 is not 8"),
        result("b"),
        result("new", outcome="error", message="no"),
    ]
    assert list(format_text(compare(old, new))) == [
        "2 shared results: 2 broken, 1 fixed, 1 no longer there",
        "",
        "Broken: 2",
        "  timm::a::output_shape  passed -> failed: 7 is not 8",
        "    pytest --headswap-zoo=timm --headswap-models='a' --headswap-checks=output_shape",
        "  timm::new::output_shape  new -> error: no",
        "    pytest --headswap-zoo=timm --headswap-models='new' --headswap-checks=output_shape",
        "",
        "Fixed: 1",
        "  timm::b::output_shape  failed -> passed",
        "",
        "No longer there: 1",
        "  timm::gone::output_shape  passed -> gone",
    ]


def test_growth_is_reported_with_its_factor() -> None:
    lines = list(format_text(compare(_run(a=10), [result("a", seconds=70, peak_memory_mb=4000.0)])))
    assert "  timm::a  10 s -> 1 min 10 s, 7.0 times" in lines
    assert "  timm::a  1,234 MB -> 4,000 MB, 3.2 times" in lines


def test_of_many_the_first_are_reported_and_the_rest_is_counted() -> None:
    new = [result(f"m{number:03}", outcome="failed") for number in range(200)]
    lines = list(format_text(compare([], new)))
    assert len(lines) < 110
    assert lines[-1] == "  and 150 more"


def test_as_markdown_it_is_bounded_and_holds_no_markup_of_a_name() -> None:
    new = [result(f"{text}{n}", outcome="failed", message=text * 50) for text in HARM for n in range(20)]
    text = format_markdown(compare([], new))
    assert len(text.encode("utf-8", "backslashreplace")) < 100_000
    assert "### Broken: 400" in text
    assert "<script>" not in text.partition("<details>")[0].replace("\\<", "")
