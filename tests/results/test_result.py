"""A result survives JSON, and refuses values without a meaning."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_headswap.results import OUTCOMES, Outcome, Result

FULL = Result(
    zoo="timm",
    model="resnet18",
    check="output_shape",
    outcome="failed",
    evidence="abstract",
    seconds=0.25,
    message="output has 1000 classes",
    repro="pytest --headswap-zoo=timm",
    nodeid="timm::resnet18::output_shape",
    reason="",
    family="resnet",
    peak_memory_mb=512.5,
    heads=("fc", "aux.fc"),
)


def test_a_result_survives_json() -> None:
    assert Result.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL


@given(model=st.text(), message=st.text(), outcome=st.sampled_from(OUTCOMES), seconds=st.floats(0, 1e6))
def test_any_text_survives_json(model: str, message: str, outcome: Outcome, seconds: float) -> None:
    result = Result("zoo", model, "check", outcome, message=message, seconds=seconds)
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_json_holds_the_fields_that_reports_rely_on() -> None:
    promised = {"zoo", "model", "check", "outcome", "evidence", "seconds", "message", "repro"}
    assert promised <= FULL.to_json().keys()


def test_an_unknown_outcome_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown outcome 'fine': it must be one of passed, failed"):
        Result("zoo", "model", "check", "fine")  # type: ignore[arg-type]


def test_fields_can_be_replaced_and_the_new_values_are_validated() -> None:
    assert replace(FULL, seconds=2.0).seconds == 2.0
    with pytest.raises(ValueError, match="seconds must be a finite number that is not negative, not -1"):
        replace(FULL, seconds=-1)


def test_a_field_of_a_later_version_is_ignored() -> None:
    assert Result.from_json({**FULL.to_json(), "colour": "blue"}) == FULL


@pytest.mark.parametrize("name", ["zoo", "model", "check", "outcome"])
def test_a_missing_field_is_named(name: str) -> None:
    data = FULL.to_json()
    del data[name]
    with pytest.raises(ValueError, match=f"missing required field `{name}`"):
        Result.from_json(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("zoo", 1),
        ("message", None),
        ("outcome", "fine"),
        ("outcome", None),
        ("raw_outcome", "fine"),
        ("heads", "fc"),
        ("heads", [1]),
        ("anatomy", []),
        ("seconds", "1"),
        ("seconds", True),
        ("seconds", None),
        ("seconds", -0.1),
        ("seconds", math.inf),
        ("seconds", math.nan),
        ("seconds", 10**400),
        ("peak_memory_mb", -1),
        ("peak_memory_mb", math.inf),
    ],
)
def test_a_value_without_a_meaning_is_refused_with_the_name_of_its_field(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Result.from_json({**FULL.to_json(), name: value})
