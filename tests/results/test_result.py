"""A result survives its way through JSON, and refuses what it cannot mean."""

from __future__ import annotations

import json

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


def test_a_result_comes_back_from_json_as_it_was() -> None:
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


def test_a_field_of_a_later_version_is_left_out() -> None:
    assert Result.from_json({**FULL.to_json(), "colour": "blue"}) == FULL


def test_a_missing_field_is_named() -> None:
    data = FULL.to_json()
    del data["check"], data["zoo"]
    with pytest.raises(ValueError, match="needs the fields zoo, check"):
        Result.from_json(data)
