"""The heads of a model travel with the first of its results, and old journals have none."""

from __future__ import annotations

import json

import pytest

from pytest_headswap.head import PathStep
from pytest_headswap.results import Result
from pytest_headswap.results.head_record import SwappedHead, SwappedHeads

WAY = (
    PathStep("layer", "body", "Linear", (2, 16)),
    PathStep("head", "fc", "Linear", (2, 10)),
    PathStep("output", "output"),
)
HEAD = SwappedHead(
    "fc", "linear", 16, 7, 1, aliases=("same",), evidence=("because",), path_to_output=WAY, old_num_classes=10
)
ANATOMY = SwappedHeads((HEAD, SwappedHead("", "identity", 16, 7, 1, "auxiliary", "softmax")), ("note",))


def test_an_anatomy_comes_back_from_json_as_it_was() -> None:
    assert SwappedHeads.from_json(json.loads(json.dumps(ANATOMY.to_json()))) == ANATOMY


def test_it_travels_with_a_result() -> None:
    told = Result("zoo", "model", "check", "passed", anatomy=ANATOMY, version="torch 2.4.1")
    assert Result.from_json(json.loads(json.dumps(told.to_json()))) == told


def test_a_line_without_it_is_as_short_as_it_was() -> None:
    assert not {"anatomy", "version"} & Result("zoo", "model", "check", "passed").to_json().keys()


def test_what_is_as_usual_is_left_out() -> None:
    (_, second) = ANATOMY.to_json()["heads"]
    assert not {"aliases", "tensors", "outputs", "evidence", "path_to_output"} & second.keys()


def test_fields_of_a_later_version_are_left_out() -> None:
    data = json.loads(json.dumps(ANATOMY.to_json()))
    data["heads"][0]["colour"] = "blue"
    assert SwappedHeads.from_json({**data, "more": 1}) == ANATOMY


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"heads": 1},
        {"heads": [{"path": "fc"}]},
        {"heads": [{**ANATOMY.to_json()["heads"][0], "path_to_output": [1]}]},
    ],
)
def test_what_is_no_anatomy_is_refused_as_part_of_the_result(wrong: object) -> None:
    data = Result("zoo", "model", "check", "passed").to_json()
    with pytest.raises(ValueError, match="anatomy"):
        Result.from_json({**data, "anatomy": wrong})
