"""Update expectations files with results: append and delete entries, and keep all other lines."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_headswap.expectations.condition import Environment
from pytest_headswap.expectations.entry import TODO, Entry
from pytest_headswap.expectations.files import ExpectationFiles
from pytest_headswap.expectations.matcher import ConflictError
from pytest_headswap.expectations.toml_document import Document, DocumentError, parse_document
from pytest_headswap.expectations.update import RunScope, Update, message_pattern, update_document
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


def make_result(model: str, check: str, outcome: Outcome, code: str = "", message: str = "") -> Result:
    return Result("zoo", model, check, outcome, reason=code, message=message)


def parse(text: str) -> Document:
    return parse_document(text, PATH, "zoo")


def update(text: str, *results: Result, scope: RunScope = SCOPE) -> Update:
    return update_document(parse(text), scope, results)


def updated(text: str, *results: Result, scope: RunScope = SCOPE) -> str:
    return update(text, *results, scope=scope).document.text


BETAS_PASS = make_result("beta", "one", "passed"), make_result("beta2", "one", "passed")


def test_expected_results_change_nothing() -> None:
    assert updated(FILE, make_result("beta", "one", "failed"), make_result("alpha", "two", "error", "why")) == FILE
    assert updated(FILE) == FILE
    assert updated(FILE.replace("\n", "\r\n")) == FILE.replace("\n", "\r\n")


def test_an_unused_entry_is_deleted_with_the_comment_right_above_it() -> None:
    start, end = FILE.index("# the betas"), FILE.index("# comes and goes")
    rest = FILE[:start] + FILE[end:]
    assert updated(FILE, *BETAS_PASS) == rest
    assert updated(FILE.replace("\n", "\r\n"), *BETAS_PASS) == rest.replace("\n", "\r\n")


def test_comments_apart_from_a_deleted_entry_stay() -> None:
    passes = [make_result(model, check, "passed") for model in ("alpha", "gamma") for check in ("one", "two")]
    before, _, _ = FILE.partition("[[expect]]\nmodels = [")
    assert updated(FILE, *passes) == before + "# the end\n"
    assert updated(FILE.removesuffix("# the end\n"), *passes) == before.removesuffix("\n")


def test_a_string_above_a_deleted_entry_is_not_taken_for_its_comment() -> None:
    first = "[[expect]]\nmodels = 'gamma'\noutcome = 'error'\nreason = '''\n# known'''\n"
    second = "[[expect]]\nmodels = 'alpha'\nchecks = 'one'\noutcome = 'failed'\nreason = 'x'\n"
    assert updated(first + second, make_result("alpha", "one", "passed")) == first


def test_deleting_the_only_entry_leaves_an_empty_file() -> None:
    text = '[[expect]]\nmodels = "alpha"\nchecks = "one"\noutcome = "failed"\nreason = "x"'
    assert updated(text, make_result("alpha", "one", "passed")) == ""


def test_an_entry_that_is_still_needed_in_part_stays_and_is_reported() -> None:
    result = update(FILE, *BETAS_PASS, make_result("alpha", "one", "passed"), make_result("gamma", "one", "passed"))
    ((entry, tests),) = result.to_narrow.items()
    assert result.document.entries == (entry,)
    assert entry.line == 5, "the line in the new file"
    assert tests == [CheckId("zoo", "alpha", "one"), CheckId("zoo", "gamma", "one")]
    result = update(FILE, make_result("beta", "one", "passed"))
    assert (result.document.text, list(result.to_narrow.values())) == (FILE, [[CheckId("zoo", "beta", "one")]])


def test_models_with_the_same_failure_share_an_entry() -> None:
    first = updated(
        "", *(make_result(model, "one", "failed", message=f"{model} has 3 of 7") for model in ("alpha", "beta"))
    )
    assert first == (
        '[[expect]]\nmodels = ["alpha", "beta"]\nchecks = "one"\noutcome = "failed"\n'
        "match = '.+ has \\d+ of \\d+'\nreason = \"TODO: say why, in words that a maintainer would accept\"\n"
    )
    second = updated(first, make_result("gamma", "one", "failed", message="gamma has 14 of 7"))
    assert second == first + "\n" + first.replace('["alpha", "beta"]', '"gamma"')


def test_a_new_entry_uses_the_line_ends_of_the_file() -> None:
    text = FILE.replace("\n", "\r\n").removesuffix("\r\n")
    after = updated(text, make_result("alpha", "three", "timeout"))
    assert after.startswith(f"{text}\r\n\r\n[[expect]]\r\n")
    assert "\n" not in after.replace("\r\n", "")


def test_a_model_that_fails_in_each_check_gets_an_entry_without_checks() -> None:
    after = updated("", *(make_result("alpha", check, "crashed", message=f"in {check}") for check in CHECKS))
    assert "checks" not in after
    assert "match" not in after


def test_a_different_failure_gets_an_entry_that_quotes_the_old_reason() -> None:
    text = FILE.replace('checks = "one"', 'checks = "one"\nmatch = "old"')
    result = update(text, make_result("beta", "one", "failed", message="new trouble"))
    old, _, new = result.document.entries
    assert result.document.text.startswith(text)
    assert (new.models, new.match) == (("beta",), "new trouble")
    assert new.reason.startswith(TODO)
    assert new.reason.endswith(": old trouble")
    assert result.to_narrow == {old: [CheckId("zoo", "beta", "one")]}


def test_a_different_outcome_waits_until_the_old_entry_is_narrowed() -> None:
    crash = make_result("beta", "one", "crashed")
    result = update(FILE, crash)
    assert result.document.text == FILE
    assert list(result.to_narrow.values()) == [[crash.check_id]]
    narrowed = FILE.replace('"beta*"', '["beta*", "!beta"]')
    assert updated(narrowed, crash).startswith(narrowed + "\n[[expect]]\n")


def test_a_different_outcome_replaces_an_entry_that_nothing_else_needs() -> None:
    result = update(FILE, make_result("beta", "one", "crashed"), make_result("beta2", "one", "passed"))
    _, new = result.document.entries
    assert (new.models, new.outcome, result.to_narrow) == (("beta",), "crashed", {})
    assert new.reason.endswith(": old trouble")


def test_entries_whose_condition_does_not_hold_are_not_touched() -> None:
    text = FILE.replace('checks = "one"', 'checks = "one"\nwhen = {python = "<3"}')
    after = updated(text, make_result("beta", "one", "passed"), make_result("beta2", "one", "failed", message="m"))
    assert after.startswith(text)
    assert parse(after).entries[-1].models == ("beta2",)


def test_skips_are_added_only_if_all_must_be_listed() -> None:
    skip = make_result("alpha", "three", "skipped", "no_native", "[no_native] whatever")
    assert updated("", skip) == ""
    (entry,) = update("strict_skips = true\n", skip).document.entries
    assert (entry.models, entry.checks, entry.outcome, entry.code, entry.match) == (
        ("alpha",),
        ("three",),
        "skipped",
        "no_native",
        "",
    )


def test_an_entry_without_matching_models_is_deleted_only_after_a_run_of_the_complete_zoo() -> None:
    text = FILE.replace('"beta*"', '"delta*"')
    assert updated(text) == text
    assert "delta*" not in updated(text, scope=replace(SCOPE, complete=("zoo",)))


def test_an_entry_that_names_models_of_another_version_of_the_zoo_stays() -> None:
    text = FILE.replace('"beta*"', '["beta*", "delta"]')
    result = update(text, *BETAS_PASS)
    assert (result.document.text, list(result.to_narrow.values())) == (text, [[item.check_id for item in BETAS_PASS]])


def test_an_entry_with_may_pass_stays_if_its_checks_pass() -> None:
    text = FILE.replace('checks = "one"', 'checks = "one"\nmay_pass = true')
    assert update(text, *BETAS_PASS) == Update(parse(text), {})
    assert "may_pass" not in updated(text, *(replace(item, outcome="error") for item in BETAS_PASS))


# Layouts that TOML allows. Entries are deleted by line, so each must end where it does in the file.
_LAYOUTS = [
    'models = "a"\noutcome = "failed"\nreason = "x"\n',
    'reason = """\n[[expect]]\n# in a string\n\n# still in it"""\nmodels = \'a\'\noutcome = "failed" # why\n',
    "models = \"a\"\noutcome = \"failed\"\nreason = '''x\n\n# in a string'''\n",
    'reason = "x"\n\n  # inside\n\n  outcome = "failed"\n  models = [  # one\n    "a",\n\n    # two\n  ]\n',
    'models = "a"\noutcome = "failed"\nreason = "x"\nwhen.python = ">3"\nwhen.platform = ["linux"]\n',
    'when.python = ">3"\nmodels = "a"\noutcome = "failed"\nwhen.torch = ">2"\n"reason" = "x"\n',
    'models = "a"\noutcome = "failed"\nreason = "x"\n\n# of the condition\n[expect.when] # sub\n\npython = ">3"\n',
    'models = "a"\noutcome = "failed"\nreason = "x"\nwhen = { python = ">3" }   \n',
    'reason = "\u2028 # \u0085"  # \u2028\nmodels = "a"\noutcome = "failed"\n',
]
_HEADERS = st.sampled_from(["[[expect]]", "  [[ expect ]]  # header", '\t[["expect"]]', "[[expect]] #"])
_OWN = st.sampled_from(["", "# own\n", "  # own\n# own [[expect]]\n#\n"])
_APART = st.sampled_from(["", "\n", "\n\n", "# apart\n\n", "\n# apart [[expect]]\n\n", " \t\n#\n\n\n"])
_PIECES = st.tuples(_APART, _OWN, _HEADERS, st.sampled_from(_LAYOUTS), st.booleans())


@settings(max_examples=300)
@given(
    st.sampled_from(["", "\n", "# head\n\n", "strict_skips = false # no\n\n", "# head\n\nstrict_skips = true\n"]),
    st.lists(_PIECES, max_size=5),
    _APART,
    st.booleans(),
    st.booleans(),
)
def test_deleting_and_appending_entries_keeps_all_other_lines(
    head: str, pieces: list[tuple[str, str, str, str, bool]], tail: str, crlf: bool, cut: bool
) -> None:
    def joined(parts: list[str]) -> str:
        text = "".join(parts)
        text = text.removesuffix("\n") if cut else text
        return text.replace("\n", "\r\n") if crlf else text

    text = joined([head, *(f"{apart}{own}{header}\n{body}" for apart, own, header, body, _ in pieces), tail])
    document = parse(text)
    assert document.text == text
    for entry, (_, _, header, body, _) in zip(document.entries, pieces, strict=True):
        lines = text.split("\n")[entry.line - 1 : entry.last_line]
        assert [line.removesuffix("\r") for line in lines] == f"{header}\n{body}".split("\n")[:-1]
    deleted = [entry for entry, piece in zip(document.entries, pieces, strict=True) if piece[-1]]
    kept = [entry for entry in document.entries if entry not in deleted]
    after = document.edit(deleted, [])
    assert [_without_lines(entry) for entry in after.entries] == [_without_lines(entry) for entry in kept]
    rest = [apart if gone else f"{apart}{own}{header}\n{body}" for apart, own, header, body, gone in pieces]
    assert _not_blank(after.text) == _not_blank(joined([head, *rest, tail]))
    if not deleted:
        assert after.text == text
    added = document.edit([], [{"models": ["b"], "outcome": "failed", "reason": "new"}])
    assert added.text.startswith(text)
    assert added.entries[:-1] == document.entries


def _without_lines(entry: Entry) -> Entry:
    return replace(entry, line=0, last_line=0)


def _not_blank(text: str) -> list[str]:
    return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]


@given(st.text(max_size=300), st.text(min_size=1, max_size=300))
def test_a_message_pattern_matches_its_message(message: str, model: str) -> None:
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
    text = draw(st.sampled_from(["", "# head\n", "strict_skips = true\n", "# no newline"]))
    for number in range(draw(st.integers(0, 5))):
        values: dict[str, str | list[str]] = {
            "models": draw(st.lists(_SIGNS, min_size=1, max_size=3)),
            "checks": draw(st.lists(st.sampled_from(["*", "one", "two", "!three"]), min_size=1, max_size=2)),
            "outcome": draw(st.sampled_from(["skipped", *FAILURES])),
            **({"match": "of"} if draw(st.integers(0, 3)) == 0 else {}),
            "reason": draw(st.sampled_from(["known", "'''", "[[expect]]\n# ü", '"""'])),
        }
        before, _, last = parse(text).edit([], [values]).text.rpartition("reason =")
        inside = draw(st.sampled_from(["", "# inside\n", "may_pass = true\n", 'when = {python = "<3"}\n']))
        text = f"{before}{inside}reason ={last}" + draw(st.sampled_from(["", f"# between {number}\n\n", "\n\n"]))
    return text


_RESULTS = st.dictionaries(
    st.tuples(st.sampled_from(_ODD), st.sampled_from(CHECKS)),
    st.tuples(_OUTCOMES, st.sampled_from(["", "code"]), _MESSAGES),
    max_size=12,
).map(lambda drawn: [make_result(*test, outcome, *texts) for test, (outcome, *texts) in drawn.items()])


def _with_codes(results: Sequence[Result]) -> list[Result]:
    """Give each skip a code, since a skip without one comes from a user's mark."""
    return [replace(item, reason="code") if item.outcome == "skipped" else item for item in results]


@settings(max_examples=150)
@given(_files(), _RESULTS, st.booleans())
def test_an_updated_file_expects_the_results_and_keeps_all_other_entries(
    text: str, results: list[Result], whole: bool
) -> None:
    results = _with_codes(results)
    scope = RunScope({"zoo": tuple(_ODD)}, CHECKS, Environment(), complete=("zoo",) if whole else ())
    before = parse(text)
    try:
        old_matcher = scope.matcher([before])
    except ConflictError:
        return
    result = update(text, *results, scope=scope)
    after = parse(result.document.text)
    assert after == result.document
    matcher = scope.matcher([after])
    to_narrow = {test for tests in result.to_narrow.values() for test in tests}
    for item in results:
        verdict = matcher.verdict(item)
        assert verdict.kind in ("expected", "none") or item.check_id in to_narrow, item
        assert verdict.kind != "none" or item.outcome not in FAILURES, item
    assert not [entry for entry in matcher.unused_entries(results, scope.complete) if not entry.may_pass]
    assert updated(after.text, *results, scope=scope) == after.text

    ran = {item.check_id for item in results}
    old = [_without_lines(entry) for entry in before.entries]
    new = [_without_lines(entry) for entry in after.entries]
    assert all(entry in old or entry.is_todo for entry in new)
    for entry in before.entries:
        if _without_lines(entry) not in new:
            (scoped,) = (item for item in old_matcher.entries if item.entry == entry)
            assert ran.issuperset(scoped.tests())
            assert whole or list(scoped.tests())
    assert {line for line in text.splitlines() if line.startswith("# between")} <= set(after.text.splitlines())


def _store(folder: Path, *zoos: str) -> ExpectationFiles:
    return ExpectationFiles(folder, str(folder), zoos)


def test_concurrent_updates_keep_all_new_entries(tmp_path: Path) -> None:
    path = tmp_path / "zoo.toml"
    models = [f"model{number}" for number in range(12)]
    scope = RunScope({"zoo": models}, CHECKS, Environment())

    def write(model: str) -> None:
        failures = [make_result(model, "one", "failed", message=f"{model} fails")]
        _store(tmp_path, "zoo").update(path, lambda document: update_document(document, scope, failures))

    threads = [threading.Thread(target=write, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = parse(path.read_text()).entries
    assert sorted(entry.models for entry in entries) == sorted((model,) for model in models)
    assert [item.name for item in tmp_path.iterdir()] == ["zoo.toml"]


def test_a_file_that_became_invalid_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "zoo.toml"
    path.write_text("[[expect]]\nnonsense\n")
    with pytest.raises(DocumentError, match=r"invalid TOML: .* at line 2"):
        _store(tmp_path, "zoo").update(path, lambda document: Update(document.edit([], [{"models": "a"}]), {}))
    assert path.read_text() == "[[expect]]\nnonsense\n"


def test_an_update_keeps_a_symbolic_link_and_the_file_mode(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "zoo.toml"
    real.write_text(FILE)
    real.chmod(0o640)
    link.symlink_to(real)
    _store(link, "zoo").update(
        link, lambda document: update_document(document, SCOPE, [make_result("alpha", "three", "timeout")])
    )
    assert link.is_symlink()
    assert "timeout" in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o640
