"""The class count reaches a factory under its own name, or the factory is refused: another size is never changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap import ModelSpec, ZooError, check_headswap
from pytest_headswap.zoo.class_count import build_with_class_count
from pytest_headswap.zoo.custom import make_zoo


class Net(nn.Module):
    """The width comes before the class count."""

    def __init__(self, width: int = 16, num_classes: int = 10) -> None:
        super().__init__()
        self.backbone = nn.Linear(8, width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.backbone(x).relu())  # type: ignore[no-any-return]


class Labels(Net):
    """The class count has another name."""

    def __init__(self, width: int = 16, num_labels: int = 10) -> None:
        super().__init__(width, num_labels)


class Width(Net):
    """The only parameter is no class count."""

    def __init__(self, width: int = 16) -> None:
        super().__init__(width)


class Positional(Net):
    """The class count can be passed only by position."""

    def __init__(self, num_classes: int = 10, /) -> None:
        super().__init__(num_classes=num_classes)


class Options(Net):
    """The class count is one of the options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)


def _after_width(width: int = 16, num_classes: int = 10, /) -> Net:
    return Net(width, num_classes)


FACTORIES: dict[str, Callable[..., Any]] = {
    "a class": Net,
    "a class by position": Positional,
    "a class with options": Options,
    "a partial class": partial(Net, 16),
    "a partial class with a width by name": partial(Net, width=16),
    "a class with another name for it": Labels,
    "a partial class with another name for it": partial(Labels, 16),
    "a keyword-only parameter": lambda *, num_classes: Net(num_classes=num_classes),
    "one parameter of any name": lambda n: Net(num_classes=n),
    "one optional parameter of any name": lambda n=10: Net(num_classes=n),
    "a required one among optional ones": lambda count, width=16: Net(width, count),
    "any arguments": lambda *arguments: Net(16, *arguments),
}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES.keys())
def test_the_native_model_has_the_requested_class_count_and_nothing_else_changes(factory: Callable[..., Any]) -> None:
    model = build_with_class_count(factory, 5)
    assert (model.fc.out_features, model.fc.in_features) == (5, 16)
    spec = ModelSpec("net", Net, lambda _: torch.zeros(2, 8), build_native=factory)
    (zoo_spec,) = make_zoo("mine", [spec])
    for item in (spec, zoo_spec):
        (result,) = check_headswap(item, checks="native_parity")
        assert (result.outcome, result.message) == ("passed", "")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (_after_width, "takes num_classes only by position, after other parameters"),
        (lambda width=16, depth=2: Net(width), "has the parameters width, depth"),
        (Width, "has the parameters width"),
        (lambda *, count=10: Net(num_classes=count), "has the parameters count"),
        (True, "is True: pass a function of the class count"),
    ],
    ids=["by position after others", "no class count", "a class of something else", "keyword-only", "no function"],
)
def test_a_factory_that_does_not_name_the_class_count_is_refused(factory: Any, message: str) -> None:
    with pytest.raises(ZooError, match=f"build_native of 'net' .*{message}"):
        ModelSpec("net", Net, build_native=factory)
    with pytest.raises(ZooError, match="build_native of 'Net' "):
        check_headswap(Net(), build_native=factory)


def test_a_factory_of_a_mapping_may_take_the_class_count_only_by_position_if_it_comes_first() -> None:
    (spec,) = make_zoo("mine", {"net": Positional})
    assert spec.build_native is not None
    assert spec.build_native(5).fc.out_features == 5  # type: ignore[union-attr]
    with pytest.raises(ZooError, match="the factory of 'net' in zoo 'mine' has the parameters width, num_classes"):
        make_zoo("mine", {"net": _after_width})
