"""Test how text is formatted for messages, reports and file names."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_headswap._links import DOCS
from pytest_headswap._text import (
    error_page,
    escape_unprintable,
    file_name,
    format_bytes,
    format_duration,
    join_first,
    single_line,
    truncate,
    truncate_left,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("resnet18", "resnet18"),
        ("ñ 模型", "ñ 模型"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("a\nb", "a\\nb"),
    ],
)
def test_invisible_characters_are_escaped(text: str, shown: str) -> None:
    assert escape_unprintable(text) == shown


@pytest.mark.parametrize("reason", ['"><img src=x>', "a b", "\u202egnp", "", "ñ"])
def test_invalid_reason_codes_are_not_added_to_links(reason: str) -> None:
    assert error_page(reason) == f"{DOCS}errors/"
    assert error_page("no_inputs") == f"{DOCS}errors/#no_inputs"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 MiB"), (3 * 2**20, "3 MiB"), (2**30 - 2**20, "1023 MiB"), (5 * 2**29, "2.5 GiB")]
)
def test_sizes_use_readable_units(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_only_the_first_names_of_a_long_list_are_listed() -> None:
    assert join_first(["a", "b"]) == "a, b"
    assert join_first([str(number) for number in range(1300)]) == "0, 1, 2, 3, 4 and 1,295 more"


def test_lines_may_be_kept() -> None:
    assert escape_unprintable("a\nb\tc", keep_line_breaks=True) == "a\nb\\tc"
    assert single_line("a\n  b\tc") == "a b c"


def test_long_text_is_truncated_at_either_end() -> None:
    assert truncate("abcdef", 6) == "abcdef"
    assert truncate("abcdefg", 6) == "abcde…"
    assert truncate_left("abcdefg", 6) == "…cdefg"


@given(zoo=st.text(max_size=20), model=st.text(max_size=400))
@example("", "")
@example("timm", "../../x")
@example("timm", "CON.txt.")
@example("timm", "\ud800/\0")
def test_file_name_is_valid_for_any_model_name(zoo: str, model: str) -> None:
    name = file_name(zoo, model)
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*-[0-9a-f]{12}\.html|[_-][a-z0-9._-]*-[0-9a-f]{12}\.html", name)
    assert len(name) <= 80
    assert name == file_name(zoo, model)


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), unique=True, min_size=2, max_size=20))
def test_file_names_are_unique_without_regard_to_case(names: list[tuple[str, str]]) -> None:
    assert len({file_name(*pair).lower() for pair in names}) == len(names)


def test_file_names_separate_zoo_and_model_and_case() -> None:
    assert len({file_name(*pair) for pair in (("z", "A"), ("z", "a"), ("za", ""), ("", "za"))}) == 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "4 ms"), (0.25, "0.2 s"), (9.96, "10 s"), (59.6, "1 min"), (310, "5 min 10 s"), (7500, "2 h 5 min")],
)
def test_durations_use_readable_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
