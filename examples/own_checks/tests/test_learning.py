"""Tests that run once for each model of a zoo. Each test gets its own model, with a new head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pytest_headswap import Case, freeze_backbone


def logits_of(case: Case) -> Tensor:
    """Return the model's logits for the inputs of the case."""
    outputs: Any = case.model(*case.inputs.args)
    logits: Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs
    return logits


@pytest.mark.headswap(zoo="fieldcam", require_checks="output_shape, gradient_flow")
def test_new_head_memorizes_two_samples(headswap_case: Case) -> None:
    freeze_backbone(headswap_case.swap)
    labels = torch.tensor([0, 4])
    optimizer = torch.optim.Adam(headswap_case.swap.parameters(), lr=0.05)
    headswap_case.model.train()
    for _ in range(100):
        optimizer.zero_grad()
        functional.cross_entropy(logits_of(headswap_case), labels).backward()
        optimizer.step()
    assert logits_of(headswap_case).argmax(1).equal(labels)


@pytest.mark.headswap(zoo="fieldcam", models="herd", num_classes=2)
def test_num_classes_of_the_marker_sets_the_logits(headswap_case: Case) -> None:
    assert logits_of(headswap_case).shape == (2, 2)
