"""An id can be split again, whatever a zoo calls its models."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_headswap.case.options import CaseOptions
from pytest_headswap.results.ids import CheckId, escape, parse_id, reproduce_command, unescape

NAMES = st.text(st.characters() | st.sampled_from(":%[]/ "), min_size=1)


@given(NAMES, NAMES, NAMES)
def test_every_id_can_be_split_into_its_names(zoo: str, model: str, check: str) -> None:
    test = CheckId(zoo, model, check)
    assert parse_id(str(test)) == test


@given(NAMES)
def test_an_escaped_name_is_safe_in_an_id(name: str) -> None:
    escaped = escape(name)
    assert unescape(escaped) == name
    assert escaped.isprintable()
    assert "::" not in f"a{escaped}b"
    assert not escaped.startswith(":")
    assert not escaped.endswith(":")
    assert "[" not in escaped


@pytest.mark.parametrize("name", ["resnet18", "vit.augreg_in21k", "hf-hub:timm/resnet", "a b", "größe", "a]"])
def test_ordinary_names_are_not_escaped(name: str) -> None:
    assert escape(name) == name


@pytest.mark.parametrize(
    ("name", "escaped"),
    [("a::b", "a%3A%3Ab"), ("a:", "a%3A"), (":a", "%3Aa"), ("100%", "100%25"), ("a[b]", "a%5Bb]"), ("a\nb", "a%0Ab")],
)
def test_characters_that_would_break_an_id_are_escaped(name: str, escaped: str) -> None:
    assert escape(name) == escaped


@pytest.mark.parametrize("nodeid", ["", "tests/test_a.py::test_b", "a::b::c::d"])
def test_other_ids_are_not_parsed_as_ours(nodeid: str) -> None:
    assert parse_id(nodeid) is None


def test_the_repro_command_is_quoted_for_a_shell() -> None:
    command = reproduce_command(CheckId("zoo", "a b's", "output_shape"), CaseOptions().flags())
    assert shlex.split(command) == [
        "pytest",
        "--headswap-zoo=zoo",
        "--headswap-models=a b's",
        "--headswap-checks=output_shape",
        "--headswap-report=headswap-repeat",
    ]


def test_the_repro_command_lists_only_non_default_options() -> None:
    options = CaseOptions(3, "numeric", "cuda:1")
    flags = " --headswap-num-classes=3 --headswap-evidence=numeric --headswap-device=cuda:1"
    assert reproduce_command(CheckId("z", "m", "c"), options.flags()).endswith(flags)
