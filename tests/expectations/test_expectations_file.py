"""The file of expectations is read as it was written, and what cannot be used is told with its line and a way out."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_headswap._case_options import CaseOptions
from pytest_headswap._globs import escape_glob, exclude_name, matches_glob, select_names
from pytest_headswap.expectations.condition import ConditionError, Environment, evaluate
from pytest_headswap.expectations.matcher import ConflictError, Observation, make_matcher
from pytest_headswap.expectations.toml_document import Document, DocumentError, parse_document
from pytest_headswap.harness.options import OptionError
from pytest_headswap.plugin.read_expectations import read_expectations
from pytest_headswap.results.ids import CheckId

PATH = Path("zoo.toml")
FAILS = '[[expect]]\nmodels = "a"\noutcome = "failed"\nreason = "known"\n'


def parse(text: str) -> Document:
    return parse_document(text, PATH, "zoo")


def test_an_entry_is_read_with_its_line() -> None:
    document = parse(
        "# what we know\nstrict_skips = true\n\n# why\n[[expect]]\n"
        'models = ["a*", "!ab"]\nchecks = "metadata"\noutcome = "skipped"\ncode = "no_native"\nmatch = "^x"\n'
        'when = "torch<2.6"\nmay_pass = true\nreason = """\nlong\n[[expect]]\n# and strange"""\n\n# the end\n' + FAILS
    )
    first, second = (part.entry for part in document.parts)
    assert document.strict_skips
    assert (first.zoo, first.models, first.checks, first.line) == ("zoo", ("a*", "!ab"), ("metadata",), 5)
    assert (first.outcome, first.code, first.match, first.when) == ("skipped", "no_native", "^x", "torch<2.6")
    assert (first.may_pass, first.run, first.reason) == (True, True, "long\n[[expect]]\n# and strange")
    assert (second.models, second.checks, second.line, second.run) == (("a",), ("*",), 19, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (FAILS.replace("models", "model"), "line 2: unknown key 'model': did you mean models?"),
        (FAILS + 'outcom = "x"\n', "line 5: unknown key 'outcom': did you mean outcome?"),
        (FAILS.replace('reason = "known"', ""), "line 1: reason is missing: say why"),
        (FAILS.replace("known", "  "), "line 4: reason has to be text that is not empty"),
        (FAILS.replace("failed", "fail"), "line 3: outcome is 'fail', but has to be one of failed, error"),
        (FAILS.replace('outcome = "failed"', ""), "line 1: outcome is missing: write one of failed"),
        (FAILS.replace('"a"', '""'), "line 2: models has to be a glob or a list of globs, and '' is not one"),
        (FAILS.replace('"a"', '"!"'), "line 2: models has to be"),
        (FAILS.replace('"a"', "[]"), "line 2: models has to be"),
        (FAILS.replace('"a"', "[1]"), "line 2: models has to be"),
        (FAILS.replace('models = "a"\n', ""), 'line 1: models is missing: write a glob such as "resnet*"'),
        (FAILS + 'match = "("\n', "line 5: match is not a regular expression"),
        (FAILS + 'when = "torch"\n', "line 5: when: 'torch' is not a condition: write it as torch<2.6"),
        (FAILS + 'code = "x"\n', "line 5: what is failed has no code"),
        (FAILS + 'may_pass = "yes"\n', "line 5: may_pass has to be true or false, not 'yes'"),
        (FAILS + "run = false\n", "line 5: with run = false, the check is not made"),
        (FAILS + "[other]\n", "[other] does not belong to an entry"),
        ("strict = true\n" + FAILS, "line 1: unknown key 'strict'"),
        ("\nstrict_skips = 1\n", "line 2: strict_skips has to be true or false, not 1"),
        ('expect = [{models = "a"}]\n', "line 1: write each entry as a table that begins [[expect]]"),
        (FAILS + FAILS + "nonsense\n", "line 9: invalid TOML"),
        (FAILS + 'match = "\n', "line 5: invalid TOML"),
        ("= 1", "line 1: invalid TOML"),
    ],
)
def test_what_cannot_be_used_is_reported_with_its_line(text: str, told: str) -> None:
    with pytest.raises(DocumentError) as raised:
        parse(text)
    assert str(raised.value).startswith("zoo.toml")
    assert told in str(raised.value)


TORCH = torch.__version__.split("+")[0]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("", True),
        ("torch>=2.4", True),
        ("torch<2", False),
        (f"torch=={TORCH}", True),
        (f"torch={TORCH}", True),
        ("torch>=2,<3", True),
        ("torch>=2,<2.1", False),
        ("python>=3.10, platform=" + sys.platform, True),
        ("python>=3.10, platform=beos", False),
        ("platform!=beos", True),
        (f"machine={platform.machine()}", True),
        ("machine!=m68k", True),
        ("device=cpu", True),
        ("device=cuda", False),
        ("evidence=abstract", True),
        ("evidence!=abstract", False),
        ("testlib~=1.2", True),
        ("testlib>=2", False),
        ("ghostlib>=1", False),
        ("ghostlib!=1", False),
    ],
)
def test_a_condition_is_held_against_versions_and_options(condition: str, expected: bool) -> None:
    assert evaluate(condition, Environment("cpu", "abstract", {"testlib": "1.2.5"})) is expected


def test_the_device_is_the_one_that_checks_go_to() -> None:
    assert evaluate("device=cuda", Environment("cuda:1"))
    assert evaluate("device=cuda", Environment("auto", gpus=lambda: 1))
    assert evaluate("device=cpu", Environment("auto"))


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("torch", "is not a condition"),
        ("<2", "is not a condition"),
        ("torch<x", "does not end in a version"),
        ("torch<2 or python<3", "is not a condition"),
        ("__import__('os')", "is not a condition"),
        ("device<cuda", "device is compared with = or !="),
        ("trch<2", "'trch' is not installed: did you mean torch?"),
        ("torch<2, trch<2", "did you mean torch?"),
        ("oddlib<2", "has the version 'odd', which cannot be compared"),
    ],
)
def test_what_is_no_condition_is_reported(condition: str, told: str) -> None:
    with pytest.raises(ConditionError, match=told):
        evaluate(condition, Environment(versions={"oddlib": "odd"}))


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@given(NAMES, NAMES)
def test_a_name_can_be_written_so_that_it_stands_for_itself(name: str, other: str) -> None:
    assert matches_glob(escape_glob(name), name)
    assert select_names([escape_glob(name)], [name, other]) == {name}
    assert not select_names(["*", f"!{escape_glob(name)}"], [name])


def test_a_name_that_no_file_can_hold_still_has_a_pattern() -> None:
    name = "a\udc80b"
    escape_glob(name).encode()
    assert select_names([escape_glob(name)], [name]) == {name}


def test_names_are_taken_out_of_lists_and_left_out_of_globs() -> None:
    assert exclude_name(["a", "b"], "a") == ["b"]
    assert exclude_name(["a"], "a") == []
    assert exclude_name(["a*", "b"], "ab") == ["a*", "b", "!ab"]
    assert exclude_name(["a*"], "a*") == ["a*", "!a[*]"]
    assert exclude_name(["a", "!b"], "a") == []
    assert exclude_name(["!c"], "ab") == ["!c", "!ab"]
    assert select_names(["!c"], "abc") == {"a", "b"}


def matcher_of(text: str) -> object:
    entries = [part.entry for part in parse(text).parts]
    return make_matcher(entries, {"zoo": ("a", "ab", "b")}, ("one", "two"), ())


def test_entries_that_contradict_each_other_are_refused_with_both_places() -> None:
    wide = FAILS.replace('"a"', '"a*"').replace("failed", "crashed")
    with pytest.raises(ConflictError) as raised:
        matcher_of(FAILS + wide)
    assert str(raised.value) == (
        "zoo::a::one is covered twice, and differently: by zoo.toml, line 1 (failed), and by zoo.toml, line 5 "
        "(crashed). Leave it out of one with '!a'"
    )
    matcher_of(FAILS + wide.replace('"a*"', '["a*", "!a"]'))
    matcher_of(FAILS.replace("outcome", 'checks = "one"\noutcome') + wide.replace("outcome", 'checks = "two"\noutcome'))


def test_one_of_several_entries_explains_what_was_found() -> None:
    entries = [part.entry for part in parse(FAILS + 'match = "x"\n' + FAILS + 'match = "y"\n').parts]
    judge = make_matcher(entries, {"zoo": ("a",)}, ("one",), ())
    test = CheckId("zoo", "a", "one")
    assert judge.verdict(Observation(test, "failed", "", "sixty")).entries == tuple(entries)
    assert judge.verdict(Observation(test, "failed", "", "why")).entries == (entries[1],)
    assert judge.verdict(Observation(test, "failed", "", "z")).kind == "mismatch"
    assert judge.verdict(Observation(test, "error", "", "x")).kind == "mismatch"
    assert judge.verdict(Observation(test, "passed")).kind == "unexpected_pass"
    assert judge.verdict(Observation(CheckId("zoo", "b", "one"), "failed")).kind == "none"


def test_a_worker_reads_what_the_controller_has_read(tmp_path: Path) -> None:
    path = tmp_path / "zoo.toml"
    path.write_text("nonsense", encoding="utf-8")
    sent = {"path": str(path), "typed": "zoo.toml", "texts": {str(path): FAILS}}
    worker: Any = SimpleNamespace(workerinput={"headswap_expectations": sent}, getoption=lambda _: False)
    zoo: Any = SimpleNamespace(name="zoo", names=("a",), versions={})
    here = (((zoo, ("a",)),), ("one",), CaseOptions(), "zoo.toml", path)
    assert [item.entry.models for item in read_expectations(worker, *here).matcher.entries] == [("a",)]
    controller: Any = SimpleNamespace(getoption=lambda _: False)
    with pytest.raises(OptionError, match="line 1: invalid TOML"):
        read_expectations(controller, *here)
