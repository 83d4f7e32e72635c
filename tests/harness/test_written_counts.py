"""A class count that is written into forward is one verdict in all checks, and names the line."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_headswap import check_headswap
from pytest_headswap.checks import CHECKS
from pytest_headswap.results import Result

OLD = 100
X = torch.randn(4, 8)


class Net(nn.Module):
    def __init__(self, end: Callable[[nn.Module, Tensor], Tensor], num_classes: int = OLD) -> None:
        super().__init__()
        self.body, self.fc, self.end = nn.Linear(8, 16), nn.Linear(16, num_classes), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self, self.fc(self.body(x).relu()))


def reshapes(model: nn.Module, x: Tensor) -> Tensor:
    return x.view(-1, 100)


def adds_zeros(model: nn.Module, x: Tensor) -> Tensor:
    return x + torch.zeros(x.shape[0], 100)


def asserts(model: nn.Module, x: Tensor) -> Tensor:
    assert x.shape[-1] == 100
    return x


def raises(model: nn.Module, x: Tensor) -> Tensor:
    if x.shape[1] != 100:
        raise ValueError("expected 100 classes")
    return x


def reads_a_global_variable(model: nn.Module, x: Tensor) -> Tensor:
    return x.reshape(-1, OLD)


def narrows(model: nn.Module, x: Tensor) -> Tensor:
    return x.narrow(1, 0, 100)


def normalizes(model: nn.Module, x: Tensor) -> Tensor:
    return F.layer_norm(x, (100,))


def one_hot(model: nn.Module, x: Tensor) -> Tensor:
    return x + F.one_hot(x.argmax(1), 100)


def fills(model: nn.Module, x: Tensor) -> Tensor:
    out = x.new_empty(x.shape[0], 100)
    for index in range(x.shape[1]):
        out[:, index] = x[:, index]
    return out


def stacks(model: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([x[:, index] for index in range(100)], 1)


def pads(model: nn.Module, x: Tensor) -> Tensor:
    return F.pad(x, (0, 100 - x.shape[1]))


def branches(model: nn.Module, x: Tensor) -> Tensor:
    return x if x.shape[1] == 100 else x[:, :3]


def calls_a_helper(model: nn.Module, x: Tensor) -> Tensor:
    return branches(model, x)


def reshapes_in_train_mode(model: nn.Module, x: Tensor) -> Tensor:
    return x.view(-1, 100) if model.training else x


def reshapes_the_weight(model: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(model, Net)
    return x + model.fc.weight.view(100, -1).sum(1)


WRITTEN = [
    *(reshapes, adds_zeros, asserts, raises, reads_a_global_variable, narrows, normalizes, one_hot, fills, stacks),
    *(pads, branches, calls_a_helper, reshapes_in_train_mode, reshapes_the_weight),
]


@pytest.mark.parametrize("end", WRITTEN, ids=lambda end: end.__name__)
def test_all_checks_give_one_verdict_with_the_line(end: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = Net(end)
    before = model.state_dict()
    results = check_headswap(model, 7, X)
    (verdict,) = {(result.outcome, result.reason, result.message) for result in results}
    assert verdict[:2] == ("error", "verification_failed")
    assert "old class count" in verdict[2]
    assert "'test_written_counts.py:" in verdict[2]
    assert "the size of the tensor there" in verdict[2]
    assert len(results) == len(CHECKS)
    assert all(value is before[name] or torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_check_is_enough_for_the_verdict() -> None:
    (result,) = check_headswap(Net(reshapes), 7, X, checks="state_dict")
    assert (result.outcome, result.reason) == ("error", "verification_failed")


def reads_an_object(model: nn.Module, x: Tensor) -> Tensor:
    config = model.config
    assert isinstance(config, SimpleNamespace)
    return x.view(-1, config.count)


def test_a_count_that_forward_reads_from_an_object_follows() -> None:
    model = Net(reads_an_object)
    model.config = SimpleNamespace(count=OLD)  # type: ignore[assignment]
    assert {result.outcome for result in check_headswap(model, 7, X)} <= {"passed", "skipped"}


def cuts(model: nn.Module, x: Tensor) -> Tensor:
    return x[:, :100]


def splits(model: nn.Module, x: Tensor) -> Tensor:
    return torch.split(x, 100, 1)[0]


def _failed(results: list[Result]) -> dict[str, str]:
    return {result.check: result.message for result in results if result.outcome not in ("passed", "skipped")}


@pytest.mark.parametrize("end", [cuts, splits], ids=lambda end: end.__name__)
@pytest.mark.parametrize("name", ["one", "two", "three"])
def test_a_cut_that_only_more_classes_show_fails_one_check(
    end: Callable[[nn.Module, Tensor], Tensor], name: str
) -> None:
    failed = _failed(check_headswap(Net(end), 7, X, name=name))
    assert list(failed) == ["output_shape"]
    assert "with 101 classes" in failed["output_shape"]
    assert "The old class count (100) is written into forward at 'test_written_counts.py:" in failed["output_shape"]


def pads_to_eight(model: nn.Module, x: Tensor) -> Tensor:
    return F.pad(x, (0, max(0, 8 - x.shape[1])))


def test_a_size_that_only_fewer_classes_show_fails_one_check() -> None:
    failed = _failed(check_headswap(Net(pads_to_eight, 8), 12, X, checks="output_shape,gradient_flow"))
    assert list(failed) == ["output_shape"]
    assert "test_written_counts.py:" in failed["output_shape"]


def test_a_number_written_in_many_places_is_not_blamed() -> None:
    def busy(model: nn.Module, x: Tensor) -> Tensor:
        if x.dim() != 2:
            raise ValueError
        for _ in range(2):
            assert all(size != 2 for size in x.shape[2:])
        return x if x.shape[1] == 2 else x[:, :1]

    results = check_headswap(Net(busy, 2), 7, X)
    (message,) = {result.message for result in results}
    assert "look for the old one (2) in it" in message


def test_a_stack_of_all_entries_is_followed() -> None:
    def restacked(model: nn.Module, x: Tensor) -> Tensor:
        return torch.stack(x.unbind(1), -1) + torch.cat([x[:, index : index + 1] for index in range(x.shape[1])], 1)

    assert _failed(check_headswap(Net(restacked, 10), 7, X)) == {}
