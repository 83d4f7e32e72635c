"""The path from the backbone through a head to the output, as readable steps."""

from __future__ import annotations

import torch
from torch import nn

from pytest_headswap import find_heads, swap_head


class Residual(nn.Module):
    """A sum, a pool, a head in a leaf module, and a softmax after it."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.branch = nn.Conv2d(4, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.branch(x)
        return self.fc(self.pool(x).flatten(1)).softmax(1)  # type: ignore[no-any-return]


class Bare(nn.Module):
    """The model itself holds the projection."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.weight = nn.Parameter(torch.randn(10, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(self.body(x), self.weight)


IMAGE = torch.zeros(2, 3, 8, 8)


def test_the_path_lists_the_last_layers_the_head_and_the_operations_around_it() -> None:
    (head,) = find_heads(Residual(), IMAGE)
    assert [(step.kind, step.name, step.type, step.shape) for step in head.path_to_output] == [
        ("layer", "stem", "Conv2d", (2, 4, 6, 6)),
        ("layer", "branch", "Conv2d", (2, 4, 6, 6)),
        ("operation", "add", "", (2, 4, 6, 6)),
        ("layer", "pool", "AdaptiveAvgPool2d", (2, 4, 1, 1)),
        ("head", "fc", "Linear", (2, 10)),
        ("activation", "softmax", "", (2, 10)),
        ("output", "output", "", (2, 10)),
    ]


def test_a_head_of_tokens_is_one_step_with_the_shape_that_it_returns() -> None:
    """The layer multiplies all tokens as one matrix and reshapes the result before the activation."""
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10), nn.LogSoftmax(-1))
    (head,) = find_heads(model, torch.zeros(2, 6, 8))
    assert [(step.kind, step.name, step.shape) for step in head.path_to_output] == [
        ("layer", "0", (2, 6, 16)),
        ("head", "1", (2, 6, 10)),
        ("activation", "2", (2, 6, 10)),
        ("output", "output", (2, 6, 10)),
    ]


def test_only_the_last_steps_of_a_deep_backbone_are_listed() -> None:
    layers = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(30)]
    (head,) = find_heads(nn.Sequential(*layers, nn.Linear(8, 10)), torch.zeros(2, 8))
    assert [step.name for step in head.path_to_output] == ["28.0", "28.1", "29.0", "29.1", "30", "output"]


def test_several_heads_each_have_a_path_to_their_shared_output() -> None:
    class Averaged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 10), nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.body(x)
            return (self.one(x) + self.two(x)) / 2  # type: ignore[no-any-return]

    ways = [[step.name for step in head.path_to_output] for head in find_heads(Averaged(), torch.zeros(2, 8))]
    assert sorted(ways) == [["body", "one", "add, div", "output"], ["body", "two", "add, div", "output"]]


def test_a_projection_of_the_model_itself_is_a_step_without_a_path() -> None:
    (head,) = find_heads(Bare(), torch.zeros(2, 8))
    assert [(step.kind, step.name, step.type) for step in head.path_to_output] == [
        ("layer", "body", "Linear"),
        ("head", "", "Bare"),
        ("output", "output", ""),
    ]


def test_the_path_of_a_headless_model_shows_the_head_slot() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Identity())
    model.num_classes = 0  # type: ignore[assignment]
    (head,) = find_heads(model, torch.zeros(2, 8))
    assert [(step.kind, step.name) for step in head.path_to_output] == [
        ("layer", "0"),
        ("layer", "1"),
        ("head", "2"),
        ("output", "output"),
    ]


def test_names_in_the_path_of_a_wrapped_model_start_at_the_wrapper() -> None:
    swap = swap_head(nn.DataParallel(Residual()), 5, IMAGE)
    names = [step.name for step in swap.heads[0].path_to_output if step.type]
    assert names == ["module.stem", "module.branch", "module.pool", "module.fc"]
    assert swap.heads[0].path_to_output == swap.old_heads[0].path_to_output


def test_the_shape_of_a_head_is_that_of_its_outputs() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10), nn.Softmax(-1))
    (head,) = find_heads(model, torch.zeros(2, 4, 8))
    assert [(step.name, step.shape) for step in head.path_to_output][-3:] == [
        ("2", (2, 4, 10)),
        ("3", (2, 4, 10)),
        ("output", (2, 4, 10)),
    ]


def test_the_evidence_states_how_often_a_width_counts_the_classes() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 20)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.body(x).relu()).view(-1, 2, 10).mean(1)  # type: ignore[no-any-return]

    (head,) = find_heads(Two(), torch.zeros(4, 8))
    assert head.evidence[-1] == "its width is 20, which is 2 times the class count"
