"""Read expectations files: entries, conditions, and messages for invalid files."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from pytest_headswap._globs import escape_glob, matches_glob, select_names
from pytest_headswap.case.options import CaseOptions
from pytest_headswap.expectations.condition import WORDS, ConditionError, Environment, evaluate, read_condition
from pytest_headswap.expectations.matcher import ConflictError, make_matcher
from pytest_headswap.expectations.toml_document import Document, DocumentError, parse_document
from pytest_headswap.expectations.update import RunScope
from pytest_headswap.harness.options import EVIDENCE, OptionError
from pytest_headswap.plugin.read_expectations import read_expectations
from pytest_headswap.results import Result
from pytest_headswap.results.ids import CheckId

PATH = Path("zoo.toml")
FAILS = '[[expect]]\nmodels = "a"\noutcome = "failed"\nreason = "known"\n'


def parse(text: str) -> Document:
    return parse_document(text, PATH, "zoo")


def test_an_entry_has_the_lines_that_it_covers_in_the_file() -> None:
    document = parse(
        "# what we know\nstrict_skips = true\n\n# why\n[[expect]]\n"
        'models = ["a*", "!ab"]\nchecks = "metadata"\noutcome = "skipped"\ncode = "no_native"\nmatch = "^x"\n'
        'when = {torch = "<2.6"}\nmay_pass = true\nreason = """\nlong\n[[expect]]\n# and strange"""\n\n# the end\n'
        + FAILS
    )
    first, second = document.entries
    assert document.strict_skips
    assert (first.zoo, first.models, first.checks) == ("zoo", ("a*", "!ab"), ("metadata",))
    assert (first.line, first.last_line, second.line, second.last_line) == (5, 16, 19, 22)
    assert (first.outcome, first.code, first.match) == ("skipped", "no_native", "^x")
    assert first.when == (("torch", SpecifierSet("<2.6")),)
    assert (first.may_pass, first.run, first.reason) == (True, True, "long\n[[expect]]\n# and strange")
    assert (second.models, second.checks, second.when, second.run) == (("a",), ("*",), (), True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FAILS.replace("models", "model"), ", line 1: unknown key 'model': did you mean models"),
        (FAILS + FAILS + 'outcom = "x"\n', ", line 5: unknown key 'outcom': did you mean outcome?"),
        (FAILS.replace('reason = "known"', ""), ", line 1: reason is missing: say why"),
        (FAILS.replace("known", "  "), ", line 1: reason must be text that is not empty"),
        (FAILS.replace("failed", "fail"), ", line 1: outcome must be one of failed, error, skipped, crashed, timeout"),
        (FAILS.replace('outcome = "failed"', ""), ", line 1: outcome is missing: write one of failed"),
        (FAILS.replace('"a"', '""'), ", line 1: models must be a glob or a list of globs, but '' is not a glob"),
        (FAILS.replace('"a"', '"!"'), ", line 1: models must be"),
        (FAILS.replace('"a"', "[]"), ", line 1: models must be"),
        (FAILS.replace('"a"', "[1]"), ", line 1: models must be"),
        (FAILS.replace('models = "a"\n', ""), ', line 1: models is missing: write a glob such as "resnet*"'),
        (FAILS + 'match = "("\n', ", line 1: match is not a regular expression"),
        (FAILS + 'when = {torch = "2"}\n', ', line 1: when.torch must compare versions, such as "<2.6"'),
        (FAILS + 'when = "torch<2"\n', ", line 1: when must be a table such as"),
        (FAILS + 'code = "x"\n', ", line 1: code requires outcome skipped or error, not failed: use match instead"),
        (FAILS + 'may_pass = "yes"\n', ", line 1: may_pass must be true or false, not 'yes'"),
        (FAILS + "run = false\n", ', line 1: run = false requires outcome = "skipped"'),
        (FAILS + "[other]\n", ": unknown key 'other'. A file may begin with strict_skips = true"),
        ("strict = true\n" + FAILS, ": unknown key 'strict': did you mean strict_skips?"),
        ("\nstrict_skips = 1\n", ": strict_skips must be true or false, not 1"),
        ('expect = [{models = "a"}]\n', ": write each entry as a table that begins with [[expect]]"),
        ('[expect]\nmodels = "a"\n', ": write each entry as a table that begins with [[expect]]"),
        (FAILS + FAILS + "nonsense\n", ": invalid TOML: Unexpected character: '\\n' at line 9"),
        (FAILS + 'match = "\n', ": invalid TOML"),
        ("= 1", ": invalid TOML: Empty key at line 1"),
    ],
)
def test_an_invalid_file_is_reported_with_the_line_of_the_entry(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as raised:
        parse(text)
    assert str(raised.value).startswith(f"zoo.toml{message}")


TORCH = torch.__version__.split("+")[0]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"torch": ">=2.4"}, True),
        ({"torch": "<2"}, False),
        ({"torch": f"=={TORCH}"}, True),
        ({"torch": ">=2,<3"}, True),
        ({"torch": ">=2,<2.1"}, False),
        ({"python": ">=3.10", "platform": sys.platform}, True),
        ({"python": ">=3.10", "platform": "beos"}, False),
        ({"platform": ["beos", sys.platform]}, True),
        ({"platform": ["beos", "plan9"]}, False),
        ({"machine": platform.machine()}, True),
        ({"machine": "m68k"}, False),
        ({"device": "cpu"}, True),
        ({"device": "cuda"}, False),
        ({"evidence": "abstract"}, True),
        ({"evidence": ["auto", "numeric"]}, False),
        ({"testlib": "~=1.2"}, True),
        ({"testlib": ">=2"}, False),
        ({"ghostlib": ">=1"}, False),
        ({"ghostlib": "!=1"}, False),
        ({"torchao": ">=1"}, False),
    ],
)
def test_a_condition_compares_versions_and_words(condition: dict[str, Any], expected: bool) -> None:
    environment = Environment("cpu", "abstract", {"testlib": "1.2.5"})
    assert evaluate(read_condition(condition), environment) is expected


def test_an_entry_without_a_condition_always_applies() -> None:
    assert evaluate((), Environment())


@pytest.mark.parametrize(
    ("specifier", "expected"),
    [
        (">=2.14", True),
        ("<2.16", True),
        (">=2.15.dev0", True),
        ("==2.15.0.dev2026", True),
        ("==2.15.*", True),
        ("<2.15", False),
        (">=2.15", False),
        ("!=2.15.0.dev2026", False),
    ],
)
def test_a_nightly_build_comes_before_its_release(specifier: str, expected: bool) -> None:
    environment = Environment(versions={"torch": "2.15.0.dev2026+cu130"})
    assert evaluate(read_condition({"torch": specifier}), environment) is expected


def test_a_local_version_equals_its_release() -> None:
    environment = Environment(versions={"torch": "2.15.0+cu130"})
    assert evaluate(read_condition({"torch": "==2.15"}), environment)
    assert not evaluate(read_condition({"torch": ">2.15"}), environment)


def test_the_device_is_the_one_that_the_run_uses() -> None:
    on_gpu, on_cpu = read_condition({"device": "cuda"}), read_condition({"device": "cpu"})
    assert evaluate(on_gpu, Environment("cuda:1"))
    assert evaluate(on_gpu, Environment("auto", accelerator=lambda: "cuda"))
    assert evaluate(read_condition({"device": ["xla", "npu"]}), Environment("xla:0"))
    assert evaluate(read_condition({"device": "mine"}), Environment("mine"))
    assert evaluate(on_cpu, Environment("simulated:xla"))
    assert evaluate(on_cpu, Environment("auto"))


def test_a_condition_accepts_every_kind_of_evidence() -> None:
    assert WORDS["evidence"] == EVIDENCE


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({}, r"when must be a table such as \{.*\}, not \{\}$"),
        (1, "when must be a table such as .*, not 1$"),
        ("torch", "when must be a table such as .*, not 'torch'$"),
        ("torch<2", r"not 'torch<2': write when = \{torch = \"<2\"\}$"),
        ("torch>=2,<3", r": write when = \{torch = \">=2,<3\"\}$"),
        ("torch==2.4", r": write when = \{torch = \"==2.4\"\}$"),
        ("device=cuda", r": write when = \{device = \"cuda\"\}$"),
        ("evidence!=abstract", "not 'evidence!=abstract'$"),
        ("python<3.12, platform=linux", "not 'python<3.12, platform=linux'$"),
        ({"torch": "2.6"}, "when.torch must compare versions, such as \"<2.6\", .*, not '2.6'$"),
        ({"torch": "<x"}, "when.torch must compare versions"),
        ({"torch": ""}, "when.torch must compare versions"),
        ({"torch": ["<2"]}, "when.torch must compare versions"),
        ({"platform": "!linux"}, "when.platform must be a word or a list of words, not '!linux'"),
        ({"platform": []}, "when.platform must be a word or a list of words"),
        ({"platform": ["linux", 1]}, "when.platform must be a word or a list of words"),
        ({"device": "cud"}, r"when.device is 'cud': did you mean cuda\?$"),
        ({"device": ["cpu", "GPU"]}, r"when.device is 'GPU': did you mean cuda\?$"),
        ({"device": "cuda:0"}, "when.device must be a word or a list of words, not 'cuda:0'$"),
        ({"evidence": ["auto", "real"]}, "when.evidence is 'real'. It can be auto or abstract or numeric"),
    ],
)
def test_an_invalid_condition_is_reported_with_what_to_write(condition: Any, message: str) -> None:
    with pytest.raises(ConditionError, match=message):
        read_condition(condition)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"trch": "<2"}, r"when.trch names a library that is not installed: did you mean torch\?"),
        ({"torch": "<2", "trch": "<2"}, "did you mean torch"),
        ({"platfrm": "<2"}, "did you mean platform"),
        ({"oddlib": "<2"}, "when.oddlib: the installed version 'odd' cannot be compared"),
    ],
)
def test_a_condition_that_cannot_be_evaluated_is_reported(condition: dict[str, str], message: str) -> None:
    with pytest.raises(ConditionError, match=message):
        evaluate(read_condition(condition), Environment(versions={"oddlib": "odd"}))


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@given(NAMES, NAMES)
def test_an_escaped_name_matches_only_itself(name: str, other: str) -> None:
    assert matches_glob(escape_glob(name), name)
    assert select_names([escape_glob(name)], [name, other]) == {name}
    assert not select_names(["*", f"!{escape_glob(name)}"], [name])


def test_a_name_that_utf8_cannot_encode_has_a_pattern() -> None:
    name = "a\udc80b"
    escape_glob(name).encode()
    assert select_names([escape_glob(name)], [name]) == {name}


def test_without_included_names_all_others_are_selected() -> None:
    assert select_names(["!c"], "abc") == {"a", "b"}


def matcher_of(text: str) -> object:
    return make_matcher(parse(text).entries, {"zoo": ("a", "ab", "b")}, ("one", "two"), ())


def test_contradicting_entries_are_reported_with_both_lines() -> None:
    wide = FAILS.replace('"a"', '"a*"').replace("failed", "crashed")
    with pytest.raises(ConflictError) as raised:
        matcher_of(FAILS + wide)
    assert str(raised.value) == (
        "zoo::a::one is covered twice, and differently: by zoo.toml, line 1 (failed), and by zoo.toml, line 5 "
        "(crashed). Leave it out of one with '!a'"
    )
    matcher_of(FAILS + wide.replace('"a*"', '["a*", "!a"]'))
    matcher_of(FAILS.replace("outcome", 'checks = "one"\noutcome') + wide.replace("outcome", 'checks = "two"\noutcome'))


def test_one_of_several_entries_explains_a_result() -> None:
    entries = parse(FAILS + 'match = "x"\n' + FAILS + 'match = "y"\n').entries
    matcher = make_matcher(entries, {"zoo": ("a",)}, ("one",), ())
    test = CheckId("zoo", "a", "one")
    assert matcher.verdict(Result(*test, "failed", message="sixty")).entries == entries
    assert matcher.verdict(Result(*test, "failed", message="why")).entries == (entries[1],)
    assert matcher.verdict(Result(*test, "failed", message="z")).kind == "mismatch"
    assert matcher.verdict(Result(*test, "error", message="x")).kind == "mismatch"
    assert matcher.verdict(Result(*test, "passed")).kind == "unexpected_pass"
    assert matcher.verdict(Result("zoo", "b", "one", "failed")).kind == "none"


def test_a_worker_parses_the_text_that_the_controller_read(tmp_path: Path) -> None:
    path = tmp_path / "zoo.toml"
    path.write_text("nonsense", encoding="utf-8")
    sent = {"path": str(path), "typed": "zoo.toml", "texts": {str(path): FAILS}}
    worker: Any = SimpleNamespace(
        stash=pytest.Stash(), workerinput={"headswap_expectations": sent}, getoption=lambda _: False
    )
    zoo: Any = SimpleNamespace(name="zoo", names=("a",), versions={})
    here = (((zoo, ("a",)),), ("one",), CaseOptions(), "zoo.toml", path)
    assert [item.entry.models for item in read_expectations(worker, *here).matcher.entries] == [("a",)]
    controller: Any = SimpleNamespace(stash=pytest.Stash(), getoption=lambda _: False)
    with pytest.raises(OptionError, match="invalid TOML"):
        read_expectations(controller, *here)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2027-01-31", "after 2027-01-31"),
        ('"2027-01-31"', "after 2027-01-31"),
        ('{ timm = "1.2" }', "with timm 1.2"),
    ],
)
def test_an_entry_may_end_at_a_day_or_a_version(value: str, text: str) -> None:
    (entry,) = parse(f"{FAILS}until = {value}\n").entries
    assert str(entry.until) == text


@pytest.mark.parametrize(
    "value", ['"1.2"', "3", '{ timm = "x" }', "{ timm = 1 }", '{ timm = "1", torch = "2" }', "2027-01-31T10:00:00"]
)
def test_an_end_that_is_neither_a_day_nor_a_version_is_refused(value: str) -> None:
    with pytest.raises(DocumentError, match=r", line 1: until must be 2027-01-31, the last day, or \{timm"):
        parse(f"{FAILS}until = {value}\n")


@pytest.mark.parametrize(
    ("value", "ended"),
    [
        ("2000-01-01", True),
        ("9999-12-31", False),
        ('{ timm = "1.2" }', True),
        ('{ timm = "1.2.1" }', False),
        ('{ not_installed = "0" }', False),
    ],
)
def test_an_entry_applies_until_its_end(value: str, ended: bool) -> None:
    scope = RunScope({"zoo": ["a"]}, ["one"], Environment(versions={"timm": "1.2"}))
    matcher = scope.matcher([parse(f"{FAILS}until = {value}\n")])
    failure = Result("zoo", "a", "one", "failed")
    assert matcher.verdict(failure).kind == ("ended" if ended else "expected")
    assert (len(matcher.entries), len(matcher.ended)) == ((0, 1) if ended else (1, 0))
    passed = matcher.verdict(replace(failure, outcome="passed")).kind
    assert passed == ("none" if ended else "unexpected_pass")


@pytest.mark.parametrize(
    ("value", "explanation"),
    [
        ("12", "known (#12)"),
        ('"https://example.com/12"', "known (https://example.com/12)"),
        ('"gh-12"', "known (gh-12)"),
    ],
)
def test_an_entry_may_name_its_issue(value: str, explanation: str) -> None:
    (entry,) = parse(f"{FAILS}issue = {value}\n").entries
    assert entry.explanation == explanation


@pytest.mark.parametrize("value", ["true", '" "', "-1", "1.5"])
def test_an_issue_that_is_no_number_or_text_is_refused(value: str) -> None:
    with pytest.raises(DocumentError, match=", line 1: issue must be text that is not empty"):
        parse(f"{FAILS}issue = {value}\n")
