"""Compare two runs result by result: noise is ignored, and no broken result is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_headswap.report.comparison import format_comment, format_markdown, headline
from pytest_headswap.results import OUTCOMES, Outcome, Result
from pytest_headswap.results.compare import compare
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
def test_a_change_is_listed_by_its_kind(old: Outcome | None, new: Outcome, kind: str) -> None:
    assert _kind(old, new) == kind


@pytest.mark.parametrize("new", OUTCOMES)
@pytest.mark.parametrize("old", [None, *OUTCOMES])
def test_a_failure_that_is_new_counts_as_broken(old: Outcome | None, new: Outcome) -> None:
    assert (_kind(old, new) == "broken") == (new in FAILURES and old not in FAILURES)
    if old == new:
        assert _kind(old, new) == ""


def test_a_removed_result_is_listed() -> None:
    comparison = compare([result("a"), result("b")], [result("b")])
    assert [item.result.model for item in comparison.removed] == ["a"]
    assert not comparison.broken
    assert comparison.shared == 1


def test_the_worst_outcome_is_listed_first() -> None:
    new = [result("a", outcome="error"), result("b", outcome="crashed"), result("c", outcome="failed")]
    assert [item.result.model for item in compare([], new).broken] == ["b", "c", "a"]


def test_the_worse_of_two_results_of_one_test_counts() -> None:
    comparison = compare([result("a")], [result("a", outcome="failed"), result("a")])
    assert [item.result.outcome for item in comparison.broken] == ["failed"]


def test_results_are_compared_within_each_version() -> None:
    old = [result("a", version="torch 2.8"), result("a", version="torch 2.9", outcome="failed")]
    new = [result("a", version="torch 2.8", outcome="failed"), result("a", version="torch 2.9")]
    comparison = compare(old, new)
    assert [item.result.version for item in comparison.broken] == ["torch 2.8"]
    assert [item.result.version for item in comparison.fixed] == ["torch 2.9"]


def _run(**seconds: float) -> list[Result]:
    return [result(name, seconds=took) for name, took in seconds.items()]


def test_a_slower_model_exceeds_both_the_threshold_and_the_noise() -> None:
    old, new = _run(a=10, b=10, c=0.1, d=100), _run(a=21, b=14.9, c=9, d=115)
    comparison = compare(old, new)
    assert [(item.model, item.old, item.new, item.unit) for item in comparison.slower] == [("a", 10, 21, "s")]
    assert comparison.speed_ratio is None, "four models are too few to estimate the speed of a machine"
    assert [item.model for item in compare(old, new, threshold=1.1).slower] == ["a", "d"], "the largest factor first"
    assert compare(old, new, threshold=3).slower == ()


def test_the_time_of_a_model_is_the_sum_of_its_checks() -> None:
    old = [result("a", check, seconds=3) for check in CHECKS]
    new = [result("a", check, seconds=27 if check == "metadata" else 3) for check in CHECKS]
    (found,) = compare(old, new).slower
    assert (found.old, found.new, found.factor) == (24, 48, 2)


def test_times_are_relative_to_the_speed_of_the_machine() -> None:
    names = [f"m{number}" for number in range(20)]
    old = _run(**dict.fromkeys(names, 10.0))
    new = _run(**dict.fromkeys(names, 25.0))
    assert compare(old, new).slower == ()
    assert compare(old, new).speed_ratio == 2.5
    new[3] = replace(new[3], seconds=60)
    assert [item.model for item in compare(old, new).slower] == ["m3"]


def test_costs_are_compared_only_for_models_that_completed_the_same_checks() -> None:
    old, new = [result("a", outcome="error", seconds=1)], [result("a", seconds=100, peak_memory_mb=9000)]
    assert not compare(old, new).slower
    assert not compare(old, new).larger
    fewer = [result("a", seconds=1)]
    more = [result("a", seconds=1), result("a", "metadata", seconds=100)]
    assert not compare(fewer, more).slower


def test_a_larger_model_exceeds_both_the_threshold_and_the_noise() -> None:
    def run(**peaks: float | None) -> list[Result]:
        return [result(name, peak_memory_mb=peak) for name, peak in peaks.items()]

    old, new = run(a=1000, b=100, c=9000, d=None, e=0), run(a=1600, b=250, c=9300, d=9000, e=5000)
    comparison = compare(old, new)
    assert [(item.model, item.old, item.new, item.unit) for item in comparison.larger] == [("a", 1000, 1600, "MB")]
    assert compare(old, new, threshold=2).larger == ()


def test_memory_is_not_relative_to_the_speed_of_the_machine() -> None:
    names = [f"m{number}" for number in range(20)]
    old = [result(name, seconds=10, peak_memory_mb=1000) for name in names]
    new = [result(name, seconds=40, peak_memory_mb=1600) for name in names]
    assert len(compare(old, new).larger) == 20


def test_equal_runs_have_no_changes() -> None:
    comparison = compare(_run(a=1), _run(a=1))
    assert headline(comparison) == "1 shared result: nothing changed"
    assert format_markdown(comparison) == "## Head swaps compared\n\n1 shared result: nothing changed\n"


def test_each_change_is_listed_and_what_is_worse_comes_with_a_command() -> None:
    old = [result("a"), result("b", outcome="failed"), result("gone"), result("slow", seconds=10)]
    new = [
        result("a", outcome="failed", message="7 is not 8"),
        result("b"),
        result("new", outcome="error", message="no"),
        result("slow", seconds=70, peak_memory_mb=4000.0),
    ]
    assert (
        format_markdown(compare(old, new))
        == """\
## Head swaps compared

3 shared results, 1 new: 2 broken, 1 fixed, 1 removed, 1 slower, 1 larger

### Broken: 2

| test | before | after |
| --- | --- | --- |
| timm::a::output_shape | passed | failed: 7 is not 8 |
| timm::new::output_shape | none | error: no |

### Fixed: 1

| test | before | after |
| --- | --- | --- |
| timm::b::output_shape | failed | passed |

### Removed: 1

| test | before | after |
| --- | --- | --- |
| timm::gone::output_shape | passed | none |

### Slower: 1

| test | before | after |
| --- | --- | --- |
| timm::slow | 10 s | 1 min 10 s (7.0 times) |

### Larger: 1

| test | before | after |
| --- | --- | --- |
| timm::slow | 1,234 MB | 4,000 MB (3.2 times) |

<details><summary>Commands that repeat them</summary>

```bash
pytest --headswap-zoo=timm --headswap-models='a' --headswap-checks=output_shape
pytest --headswap-zoo=timm --headswap-models='new' --headswap-checks=output_shape
pytest --headswap-zoo=timm --headswap-models='slow' --headswap-checks=output_shape
```

</details>
"""
    )


def test_the_speed_of_the_machine_is_stated() -> None:
    names = [f"m{number}" for number in range(20)]
    comparison = compare(_run(**dict.fromkeys(names, 10.0)), _run(**dict.fromkeys(names, 25.0)))
    assert "The second run took 2.50 times as long for the median model." in format_markdown(comparison)


def test_the_first_of_many_changes_are_listed_and_the_rest_is_counted() -> None:
    text = format_markdown(compare([], [result(f"m{number:03}", outcome="failed") for number in range(200)]))
    assert text.count("| timm::m") == 50
    assert "… and 150 more." in text


def test_the_text_is_bounded_and_names_cannot_add_markup() -> None:
    new = [result(f"{text}{n}", outcome="failed", message=text * 50) for text in HARM for n in range(20)]
    text = format_markdown(compare([], new))
    assert len(text.encode("utf-8", "backslashreplace")) < 100_000
    assert "### Broken: 400" in text
    assert "<script>" not in text.partition("<details>")[0].replace("\\<", "")


def test_a_comment_has_only_what_broke_was_fixed_or_changed() -> None:
    old = [result("a"), result("b", outcome="failed"), result("c", outcome="failed"), result("slow", seconds=1.0)]
    new = [result("a", outcome="crashed", message="died"), result("b"), result("c", outcome="failed"), result("d")]
    comparison = compare(old, [*new, result("slow", seconds=100.0)])
    assert comparison.slower
    text = format_comment(comparison)
    assert text.startswith("**Head swaps**: 4 shared results, 1 new: 1 broken, 1 fixed\n")
    assert "| timm::a::output_shape | passed | crashed: died |" in text
    assert "| timm::b::output_shape | failed | passed |" in text
    assert "timm::c" not in text
    assert "Needing attention in both runs: 1 result." in text
    assert "Slower" not in text


def test_a_comment_without_changes_is_one_line() -> None:
    earlier = "2026-11-28T00:00:00+00:00"
    text = format_comment(compare([result("a")], [result("a", taken_over=earlier)]))
    assert text == "**Head swaps**: 1 shared result, 1 taken over: nothing changed\n"


def test_a_comment_stays_below_the_limit_of_github_and_counts_everything() -> None:
    for message in ("x" * 1000, "|<@" * 300, "模型🙂" * 200):
        names = [f"{message[:80]}{number}" for number in range(500)]
        old = [result(name) for name in names]
        new = [result(name, outcome="failed", message=message) for name in names]
        text = format_comment(compare([*old, result("b", outcome="failed")], [*new, result("b")]))
        assert len(text) < 65_000
        assert "500 broken, 1 fixed" in text
