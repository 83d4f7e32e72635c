"""`headswap explain` tells where the head is and why, and says what is wrong with what was typed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_headswap import ModelSpec, Zoo, __version__
from pytest_headswap.cli import main
from pytest_headswap.zoo import registry


class Distilled(nn.Module):
    """Two heads, averaged; one more in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(8, 16)
        self.head = nn.Linear(16, 10)
        self.head_dist = nn.Linear(16, 10)
        self.same = self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.backbone(x).relu()
        return ((self.head(features) + self.head_dist(features)) / 2).softmax(1)  # type: ignore[no-any-return]


class Doubled(nn.Module):
    """No head."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Encoder(nn.Module):
    """Layers, but none that could be a head: the last one reads what it is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.layer = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.stem(x)
        return features + self.layer(features)  # type: ignore[no-any-return]


def _unbuildable() -> nn.Module:
    raise ValueError("no such depth")


@pytest.fixture(autouse=True)
def _zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(registry, "_LOADED", {})
    monkeypatch.setenv("COLUMNS", "60")  # long lines have to survive a narrow terminal
    specs = {
        "distilled": ModelSpec(
            "distilled", Distilled, lambda _: torch.zeros(2, 8), notes=lambda _, heads: (f"told of {len(heads)} heads",)
        ),
        "doubled": ModelSpec("doubled", Doubled, lambda _: torch.zeros(2, 8)),
        "encoder": ModelSpec("encoder", Encoder, lambda _: torch.zeros(2, 8)),
        "wrong:inputs": ModelSpec("wrong:inputs", Distilled, lambda _: torch.zeros(2, 9)),
        "unbuildable": ModelSpec("unbuildable", _unbuildable),
    }
    registry.register("testzoo", lambda: Zoo("testzoo", tuple(specs), specs.__getitem__))


Output = pytest.CaptureFixture[str]


def test_each_head_is_printed_with_all_that_is_known(capsys: Output) -> None:
    assert main(["explain", "testzoo:distilled"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "testzoo:distilled: 2 heads, found by an abstract run on the meta device"
    first = lines[lines.index("head") : lines.index("head_dist")]
    assert "  aliases          same" in first
    assert "  kind             linear, 16 -> 10" in first
    assert "  role             main" in first
    assert "  class dimension  1" in first
    assert "  activation       softmax" in first
    assert "  outputs          output" in first
    assert any(line.startswith("  tensors          head.weight, head.bias") for line in first)
    assert any(line.startswith("  evidence         ") for line in first)
    assert "  role             distillation" in lines[lines.index("head_dist") :]


def test_the_notes_of_the_zoo_are_printed(capsys: Output) -> None:
    main(["explain", "testzoo:distilled"])
    assert "Notes\n  told of 2 heads\n" in capsys.readouterr().out


def test_what_was_rejected_is_printed_with_the_reason(capsys: Output) -> None:
    main(["explain", "testzoo:distilled"])
    out = capsys.readouterr().out
    assert "Rejected\n  backbone: " in out


def test_a_model_without_a_head_says_why_and_what_was_rejected(capsys: Output) -> None:
    assert main(["explain", "testzoo:encoder"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "headswap: testzoo:encoder: [" in captured.err
    assert "Rejected\n  " in captured.err
    assert "layer" in captured.err


def test_a_model_of_no_layers_says_why(capsys: Output) -> None:
    assert main(["explain", "testzoo:doubled"]) == 1
    assert "headswap: testzoo:doubled: [output_from_input] " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "code", "message"),
    [
        ("testzo:distilled", 2, "unknown zoo 'testzo' in the installed zoos: did you mean testzoo?"),
        ("testzoo:destilled", 2, "unknown model 'destilled' in zoo 'testzoo': did you mean distilled?"),
        ("testzoo", 2, "'testzoo' is not ZOO:MODEL, such as timm:levit_128"),
        ("testzoo:", 2, "is not ZOO:MODEL"),
        (":distilled", 2, "is not ZOO:MODEL"),
        ("testzoo:wrong:inputs", 1, "on inputs of shape (2, 9)"),
        ("testzoo:unbuildable", 1, "testzoo:unbuildable cannot be built: ValueError: no such depth"),
    ],
)
def test_what_cannot_be_explained_ends_with_a_message_on_stderr(
    capsys: Output, argument: str, code: int, message: str
) -> None:
    assert main(["explain", argument]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_the_zoos_are_listed(capsys: Output) -> None:
    assert main(["zoos"]) == 0
    assert {"builtin", "testzoo", "timm"} <= set(capsys.readouterr().out.split())


def test_the_version_is_that_of_the_package(capsys: Output) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"headswap {__version__}\n"


def test_no_command_is_an_error_with_the_usage(capsys: Output) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([])
    assert exit_info.value.code == 2
    assert "usage: headswap" in capsys.readouterr().err
