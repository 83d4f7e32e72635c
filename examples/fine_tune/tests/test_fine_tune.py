"""The script works as documented, and its model passes every check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fine_tune import NEW, ShapeNet, accuracy, load, main
from shapes import draw
from torch import nn

from pytest_headswap import parametrize_with_checks


@parametrize_with_checks([ShapeNet()], build_native=ShapeNet)
def test_network_passes_every_check(model: nn.Module, check: Callable[[nn.Module], None]) -> None:
    check(model)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a successful run."""
    folder = tmp_path_factory.mktemp("run")
    assert main([f"--output={folder}", "--epochs=3"]) == 0
    return folder


def test_only_the_head_is_saved(run: Path) -> None:
    head = torch.load(run / "head.pt", weights_only=True)
    shapes = {name: tuple(value.shape) for name, value in head.items()}
    assert shapes == {"classifier.weight": (3, 1024), "classifier.bias": (3,)}


def test_fresh_model_with_saved_head_classifies_new_shapes(run: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    assert accuracy(load(run / "backbone.pt", run / "head.pt"), draw(NEW, 200, generator)) > 0.9


def test_script_fails_below_the_required_accuracy(run: Path, tmp_path: Path) -> None:
    backbone = run / "backbone.pt"
    assert main([f"--output={tmp_path}", f"--backbone={backbone}", "--epochs=1", "--at-least=1.1"]) == 1
