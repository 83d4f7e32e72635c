"""The first result of a model holds its heads; journals of older versions have none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_headswap.head import PathStep
from pytest_headswap.results import Result
from pytest_headswap.results.head_record import SwappedHead, SwappedHeads

PATH = (
    PathStep("layer", "body", "Linear", (2, 16)),
    PathStep("head", "fc", "Linear", (2, 10)),
    PathStep("output", "output"),
)
HEAD = SwappedHead(
    "fc", "linear", 16, 7, 1, aliases=("same",), evidence=("because",), path_to_output=PATH, old_num_classes=10
)
ANATOMY = SwappedHeads(
    (HEAD, SwappedHead("", "identity", 16, 7, 1, "auxiliary", "softmax", old_num_classes=0)), ("note",)
)
RESULT = Result("zoo", "model", "check", "passed", anatomy=ANATOMY, version="torch 2.4.1")


def _through_json(result: Result) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(result.to_json()))
    return data


def test_a_result_with_heads_survives_json() -> None:
    assert Result.from_json(_through_json(RESULT)) == RESULT


def test_a_decoded_result_is_written_in_the_same_form() -> None:
    assert _through_json(Result.from_json(_through_json(RESULT))) == _through_json(RESULT)


def test_each_head_is_written_with_its_role_and_its_path() -> None:
    assert _through_json(RESULT)["anatomy"]["heads"][0] == {
        "path": "fc",
        "kind": "linear",
        "in_features": 16,
        "num_classes": 7,
        "class_dim": 1,
        "role": "main",
        "aliases": ["same"],
        "evidence": ["because"],
        "old_num_classes": 10,
        "path_to_output": [
            ["layer", "body", "Linear", [2, 16]],
            ["head", "fc", "Linear", [2, 10]],
            ["output", "output", "", []],
        ],
    }


def test_a_result_without_heads_has_no_empty_fields_for_them() -> None:
    assert not {"anatomy", "version"} & Result("zoo", "model", "check", "passed").to_json().keys()


def test_empty_fields_of_a_head_are_omitted() -> None:
    (_, second) = ANATOMY.to_json()["heads"]
    assert not {"aliases", "tensors", "outputs", "evidence", "path_to_output"} & second.keys()


def test_fields_of_a_later_version_are_ignored() -> None:
    data = _through_json(RESULT)
    data["anatomy"]["heads"][0]["colour"] = "blue"
    data["anatomy"]["more"] = 1
    assert Result.from_json(data) == RESULT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "missing required field `heads` - at `$.anatomy`"),
        ({"heads": 1}, "Expected `array`, got `int` - at `$.anatomy.heads`"),
        ({"heads": [{"path": "fc"}]}, "missing required field `kind` - at `$.anatomy.heads[0]`"),
        ({"heads": [{"role": 1}]}, "Expected `str`, got `int` - at `$.anatomy.heads[0].role`"),
        ({"heads": [{"in_features": 1.5}]}, "Expected `int`, got `float` - at `$.anatomy.heads[0].in_features`"),
        ({"heads": [{"path_to_output": [1]}]}, "got `int` - at `$.anatomy.heads[0].path_to_output[0]`"),
    ],
)
def test_malformed_heads_are_refused_with_the_name_of_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        Result.from_json({**_through_json(RESULT), "anatomy": changes})
    assert message in str(caught.value)
