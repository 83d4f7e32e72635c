"""An update makes a file true of what was seen, and loses nothing else of it: no entry, no comment, no reason."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_headswap.expectations.condition import Environment
from pytest_headswap.expectations.entry import TODO
from pytest_headswap.expectations.files import ExpectationFiles
from pytest_headswap.expectations.matcher import ConflictError
from pytest_headswap.expectations.toml_document import Document, DocumentError, parse_document
from pytest_headswap.expectations.update import RunScope, message_pattern, update_document
from pytest_headswap.results import Outcome, Result
from pytest_headswap.results.ids import CheckId
from pytest_headswap.results.result import FAILURES

PATH = Path("zoo.toml")
MODELS = ("alpha", "beta", "beta2", "gamma")
CHECKS = ("one", "two", "three")
SCOPE = RunScope({"zoo": MODELS}, CHECKS, Environment())

FILE = """\
# what we know of the zoo

# the betas
[[expect]]
models = "beta*"  # all of them
checks = "one"
outcome = "failed"
reason = '''
old  trouble'''

# comes and goes

[[expect]]
models = [
    "alpha",  # the first
    "gamma",
]
checks = ["one", "two"]
outcome = "error"
code = "why"
reason = "known"
# the end
"""


def result(model: str, check: str, outcome: Outcome, code: str = "", message: str = "") -> Result:
    return Result("zoo", model, check, outcome, reason=code, message=message)


def updated(text: str, *found: Result, scope: RunScope = SCOPE) -> str:
    document = parse_document(text, PATH, "zoo")
    update_document(document, scope, found)
    return document.text


def test_what_is_as_expected_changes_nothing() -> None:
    assert updated(FILE, result("beta", "one", "failed"), result("alpha", "two", "error", "why")) == FILE
    assert updated(FILE) == FILE
    assert updated(FILE.replace("\n", "\r\n")) == FILE.replace("\n", "\r\n")


def test_a_model_that_passes_is_left_out_and_the_others_stay() -> None:
    expected = FILE.replace('models = "beta*"  # all', 'models = ["beta*", "!beta2"]  # all')
    assert updated(FILE, result("beta2", "one", "passed")) == expected


def test_a_name_that_passes_goes_out_of_a_list_with_its_comments_left_alone() -> None:
    passes = [result("gamma", "one", "passed"), result("gamma", "two", "passed")]
    assert updated(FILE, *passes) == FILE.replace('    "gamma",\n', "")


def test_a_check_that_passes_with_all_models_goes_out_of_the_checks() -> None:
    passes = [result("alpha", "two", "passed"), result("gamma", "two", "passed")]
    assert updated(FILE, *passes) == FILE.replace('checks = ["one", "two"]', 'checks = ["one"]')


def test_a_check_that_passes_with_one_model_leaves_its_other_checks_with_their_reason() -> None:
    after = updated(FILE, result("gamma", "two", "passed"))
    assert [(part.entry.models, part.entry.checks) for part in parse_document(after, PATH, "zoo").parts] == [
        (("beta*",), ("one",)),
        (("alpha",), ("one", "two")),
        (("gamma",), ("one",)),
    ]
    assert after.count('reason = "known"') == 2
    assert after.endswith("# the end\n")


def test_an_entry_that_is_not_needed_any_more_goes_and_comments_around_it_stay() -> None:
    after = updated(FILE, result("beta", "one", "passed"), result("beta2", "one", "passed"))
    assert "beta*" not in after
    assert [line for line in after.splitlines() if line.startswith("#")] == [
        "# what we know of the zoo",
        "# the betas",
        "# comes and goes",
        "# the end",
    ]


def test_names_of_another_version_of_the_zoo_stay() -> None:
    text = FILE.replace('"gamma"', '"delta"')
    after = updated(text, result("alpha", "one", "passed"), result("alpha", "two", "passed"))
    assert parse_document(after, PATH, "zoo").parts[1].entry.models == ("delta",)


def test_models_that_fail_alike_become_one_entry_and_later_ones_join_it() -> None:
    first = updated("", *(result(model, "one", "failed", message=f"{model} has 3 of 7") for model in ("alpha", "beta")))
    assert first == (
        '[[expect]]\nmodels = ["alpha", "beta"]\nchecks = "one"\noutcome = "failed"\n'
        "match = '.+ has \\d+ of \\d+'\nreason = \"TODO: say why, in words that a maintainer would accept\"\n"
    )
    second = updated(first, result("gamma", "one", "failed", message="gamma has 14 of 7"))
    assert second == first.replace('"beta"]', '"beta", "gamma"]')
    explained = first.replace(TODO, "done")
    assert updated(explained, result("gamma", "one", "failed", message="gamma has 1 of 7")).startswith(explained)


def test_what_is_new_does_not_join_an_entry_with_a_condition() -> None:
    text = updated("", result("alpha", "one", "failed", message="has it")).replace(
        "reason", 'when = "python>3"\nreason'
    )
    after = updated(text, result("beta", "one", "failed", message="has it"))
    assert after.startswith(text)
    assert len(parse_document(after, PATH, "zoo").parts) == 2


def test_a_model_that_fails_in_each_check_gets_an_entry_without_checks() -> None:
    after = updated("", *(result("alpha", check, "crashed", message=f"in {check}") for check in CHECKS))
    assert "checks" not in after
    assert "match" not in after


def test_another_failure_than_the_expected_one_is_requested_with_the_old_reason_at_hand() -> None:
    text = FILE.replace('checks = "one"', 'checks = "one"\nmatch = "old"')
    after = updated(text, result("beta", "one", "failed", message="new trouble"))
    first, _, new = (part.entry for part in parse_document(after, PATH, "zoo").parts)
    assert first.models == ("beta*", "!beta")
    assert (new.models, new.match) == (("beta",), "new trouble")
    assert new.reason.startswith(TODO)
    assert "old trouble" in new.reason


def test_entries_whose_condition_does_not_hold_are_not_touched() -> None:
    text = FILE.replace('checks = "one"', 'checks = "one"\nwhen = "python<3"')
    after = updated(text, result("beta", "one", "passed"), result("beta2", "one", "failed", message="m"))
    assert after.startswith(text)
    assert parse_document(after, PATH, "zoo").parts[-1].entry.models == ("beta2",)


def test_skips_are_added_where_all_have_to_be_listed_and_only_there() -> None:
    skip = result("alpha", "three", "skipped", "no_native", "[no_native] whatever")
    assert updated("", skip) == ""
    after = updated("strict_skips = true\n", skip)
    entry = parse_document(after, PATH, "zoo").parts[0].entry
    assert (entry.models, entry.checks, entry.outcome, entry.code, entry.match) == (
        ("alpha",),
        ("three",),
        "skipped",
        "no_native",
        "",
    )


def test_an_entry_that_fits_no_model_goes_only_when_the_complete_zoo_was_run() -> None:
    text = FILE.replace('"beta*"', '"delta*"')
    assert updated(text) == text
    assert "delta*" not in updated(text, scope=replace(SCOPE, complete=("zoo",)))


def test_what_may_pass_stays_when_it_passes() -> None:
    text = FILE.replace('checks = "one"', 'checks = "one"\nmay_pass = true')
    assert updated(text, result("beta", "one", "passed"), result("beta2", "one", "passed")) == text


@given(st.text(max_size=300), st.text(min_size=1, max_size=300))
def test_a_pattern_finds_the_message_it_was_made_of(message: str, model: str) -> None:
    import re

    for text in (message, f"{message} {model} 1.5e-7 at 0x7f3a"):
        assert re.search(message_pattern(text, model), text) is not None


# Fuzzed files and results. Names hold what TOML, globs and terminals might trip over.
_ODD = ["a", "ab", "a*", "[a]", "!a", "x/y", "ü\n☃", "m::c", "[red]b[/red]", '"quoted"', "n" * 300, "a\\b"]
_SIGNS = st.sampled_from(["*", "a*", "?", "!a*", "!ab", "gone", "n*", *(name for name in _ODD if name[0] != "!")])
_MESSAGES = st.sampled_from(["", "none", "1 of 2", "[red]%s[/] \\ 'x' \"y\"", "two\nlines", "ü☃ \x07", "m" * 300])
_OUTCOMES = st.sampled_from(["passed", "skipped", *sorted(FAILURES)])


@st.composite
def _files(draw: st.DrawFn) -> str:
    head = draw(st.sampled_from(["", "# head\n", "strict_skips = true\n", "# no newline"]))
    document = parse_document(head, PATH, "zoo")
    for number in range(draw(st.integers(0, 5))):
        outcome = draw(st.sampled_from(["skipped", *sorted(FAILURES)]))
        document.add(
            models=draw(st.lists(_SIGNS, min_size=1, max_size=3)),
            checks=draw(st.lists(st.sampled_from(["*", "one", "two", "!three"]), min_size=1, max_size=2)),
            outcome=outcome,
            **({"match": "of"} if draw(st.integers(0, 3)) == 0 else {}),
            **({"when": "python<3"} if draw(st.integers(0, 3)) == 0 else {}),
            reason=draw(st.sampled_from(["known", "'''", "[[expect]]\n# ü", '"""'])),
        )
        document.footer += draw(st.sampled_from(["", f"# between {number}\n", "\n\n"]))
        document.parts[-1].text = document.parts[-1].text.replace(
            "reason =", draw(st.sampled_from(["reason =", "# inside\nreason ="]))
        )
        document = parse_document(document.text, PATH, "zoo")
    return document.text


_RESULTS = st.dictionaries(
    st.tuples(st.sampled_from(_ODD), st.sampled_from(CHECKS)),
    st.tuples(_OUTCOMES, st.sampled_from(["", "code"]), _MESSAGES),
    max_size=12,
).map(lambda found: [result(*names, outcome, code, text) for names, (outcome, code, text) in found.items()])


def _expectable(found: Sequence[Result]) -> list[Result]:
    """As it comes of runs: a skip has a code, since one without is a mark of the user's."""
    return [replace(item, reason="code") if item.outcome == "skipped" else item for item in found]


@settings(max_examples=150)
@given(_files(), _RESULTS, st.booleans())
def test_a_fuzzed_file_becomes_true_of_what_was_seen_and_loses_nothing_else(
    text: str, results: list[Result], whole: bool
) -> None:
    found = _expectable(results)
    scope = RunScope({"zoo": tuple(_ODD)}, CHECKS, Environment(), complete=("zoo",) if whole else ())
    before = parse_document(text, PATH, "zoo")
    assert before.text == text
    try:
        judge_before = scope.matcher([before])
    except ConflictError:
        return
    once = updated(text, *found, scope=scope)
    after = parse_document(once, PATH, "zoo")
    judge = scope.matcher([after])
    for item in found:
        verdict = judge.verdict(item)
        assert verdict.kind in ("expected", "none"), item
        assert verdict.kind == "expected" or item.outcome not in FAILURES, item
    assert not [entry for entry in judge.unused_entries(found, scope.complete) if not entry.may_pass]
    assert updated(once, *found, scope=scope) == once

    def said(document: Document, test: CheckId) -> set[tuple[str, str, str]]:
        of = judge_before if document is before else judge
        return {(entry.outcome, entry.match, entry.reason) for entry in of.entries_of(test)}

    ran = {item.check_id for item in found}
    for test in (CheckId("zoo", model, check) for model in _ODD for check in CHECKS):
        assert test in ran or said(after, test) == said(before, test), test
    asleep = [part.text for part in before.parts if part.entry.when]
    assert [part.text for part in after.parts if part.entry.when] == asleep
    assert {line for line in text.splitlines() if line.startswith(("# head", "# between"))} <= set(once.splitlines())


def _store(folder: Path, *zoos: str) -> ExpectationFiles:
    return ExpectationFiles(folder, str(folder), zoos)


def test_many_writers_lose_nothing_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "zoo.toml"
    models = [f"model{number}" for number in range(12)]
    scope = RunScope({"zoo": models}, CHECKS, Environment())

    def write(model: str) -> None:
        one = [result(model, "one", "failed", message=f"{model} fails")]
        _store(tmp_path, "zoo").update(path, lambda document: update_document(document, scope, one))

    threads = [threading.Thread(target=write, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (part,) = parse_document(path.read_text(), path, "zoo").parts
    assert set(part.entry.models) == set(models)
    assert [item.name for item in tmp_path.iterdir()] == ["zoo.toml"]


def test_a_file_that_cannot_be_read_any_more_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "zoo.toml"
    path.write_text("[[expect]]\nnonsense\n")
    with pytest.raises(DocumentError, match="line 2"):
        _store(tmp_path, "zoo").update(path, lambda document: document.add(models=["a"]))
    assert path.read_text() == "[[expect]]\nnonsense\n"


def test_a_link_and_the_mode_of_a_file_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "zoo.toml"
    real.write_text(FILE)
    real.chmod(0o640)
    link.symlink_to(real)
    _store(link, "zoo").update(
        link, lambda document: update_document(document, SCOPE, [result("alpha", "three", "timeout")])
    )
    assert link.is_symlink()
    assert "timeout" in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o640
