"""`frozen_backbone` names the heads that training did not change."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import CheckFailed
from pytest_headswap.case.training import TrainingRecord

MakeCase = Callable[..., Case]

frozen_backbone: Any = importlib.import_module("pytest_headswap.checks.frozen_backbone")  # the package has the function


def test_only_the_heads_that_training_did_not_change_are_named(make_case: MakeCase) -> None:
    heads = make_case().swap.heads
    with pytest.raises(CheckFailed) as caught:
        frozen_backbone._check_training(TrainingRecord(updated={"aux.weight"}), heads)
    assert caught.value.args[0] == "training did not change the head fc"
