"""A probe leaves no tensor behind, wherever a model caches what it computes."""

from __future__ import annotations

import collections
import contextvars
import dataclasses
import functools
import queue
import sys
import threading
import types
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap import HeadSwapError, find_heads, freeze_backbone, swap_head
from pytest_headswap.engine.abstract.stand_ins import surroundings_of

X = torch.randn(4, 8)
MODULE_CACHE: dict[str, torch.Tensor] = {}
MODULE_TABLE: torch.Tensor | None = None


class Net(nn.Module):
    """Scale the features by a table that `table` returns."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        hidden = self.body(x).relu()
        return self.fc(hidden * self.table(hidden.device))

    def table(self, device: Any) -> Any:
        return torch.ones(16, device=device)


class Slots:
    __slots__ = ("value",)


@dataclasses.dataclass
class Settings:
    value: Any = None


class CustomDict(dict[str, Any]):
    pass


def cached_in(load: Any, store: Any, **attributes: Any) -> Any:
    """Return a model that asks `load` for its table and gives a new one to `store`."""

    class Cached(Net):
        def table(self, device: Any) -> Any:
            value = load(self)
            if value is None:
                store(self, value := super().table(device))
            return value

    model = Cached()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def attribute_of_object(holder: Any) -> Any:
    return cached_in(
        lambda model: getattr(model.holder, "value", None),
        lambda model, value: setattr(model.holder, "value", value),
        holder=holder,
    )


def entry_of(mapping: Any) -> Any:
    return cached_in(lambda model: mapping.get("table"), lambda model, value: mapping.__setitem__("table", value))


def class_attribute() -> Any:
    class Cached(Net):
        cache: Any = None

        def table(self, device: Any) -> Any:
            if Cached.cache is None:
                Cached.cache = super().table(device)
            return Cached.cache

    return Cached()


def global_dict() -> Any:
    class Cached(Net):
        def table(self, device: Any) -> Any:
            if "table" not in MODULE_CACHE:
                MODULE_CACHE["table"] = super().table(device)
            return MODULE_CACHE["table"]

    return Cached()


def _global_table(device: Any) -> Any:
    global MODULE_TABLE  # noqa: PLW0603 - the case
    if MODULE_TABLE is None:
        MODULE_TABLE = torch.ones(16, device=device)
    return MODULE_TABLE


def global_variable_of_a_helper() -> Any:
    class Cached(Net):
        def table(self, device: Any) -> Any:
            return _global_table(device)

    return Cached()


def decorated_function() -> Any:
    def memoized(function: Any) -> Any:
        results: dict[Any, Any] = {}

        def wrapper(key: Any, device: Any) -> Any:
            if key not in results:
                results[key] = function(device)
            return results[key]

        return wrapper

    table = memoized(lambda device: torch.ones(16, device=device))

    class Cached(Net):
        def table(self, device: Any) -> Any:
            return table("table", device)

    return Cached()


def variable_of_a_closure() -> Any:
    value: Any = None

    class Cached(Net):
        def table(self, device: Any) -> Any:
            nonlocal value
            if value is None:
                value = super().table(device)
            return value

    return Cached()


def lru_cache() -> Any:
    class Cached(Net):
        @functools.lru_cache  # noqa: B019 - the case
        def table_of_width(self, width: Any) -> Any:
            return torch.ones(width, device=self.body.weight.device)

        def table(self, device: Any) -> Any:
            return self.table_of_width(16)

    return Cached()


def function_attribute() -> Any:
    def table(device: Any) -> Any:
        if not hasattr(table, "value"):
            table.value = torch.ones(16, device=device)  # type: ignore[attr-defined]
        return table.value  # type: ignore[attr-defined]

    class Cached(Net):
        def table(self, device: Any) -> Any:
            return table(device)

    return Cached()


def default_argument() -> Any:
    class Cached(Net):
        def table(self, device: Any, results: Any = {}) -> Any:  # noqa: B006 - the case
            if "table" not in results:
                results["table"] = super().table(device)
            return results["table"]

    return Cached()


def list_in_a_tuple() -> Any:
    results: list[Any] = []
    return cached_in(
        lambda model: model.holder[0][0] if model.holder[0] else None,
        lambda model, value: model.holder[0].append(value),
        holder=(results,),
    )


def module_in_a_list() -> Any:
    return cached_in(
        lambda model: getattr(model.holder[0], "value", None),
        lambda model, value: setattr(model.holder[0], "value", value),
        holder=[nn.Module()],
    )


def weak_keys() -> Any:
    tables: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
    return cached_in(tables.get, tables.__setitem__)


def context_variable() -> Any:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default=None)
    return cached_in(lambda model: variable.get(), lambda model, value: variable.set(value))


def items_of_a_queue() -> Any:
    tables: queue.Queue[Any] = queue.Queue()
    return cached_in(lambda model: tables.queue[0] if tables.qsize() else None, lambda model, value: tables.put(value))


MODELS = {
    "object": lambda: attribute_of_object(Settings()),
    "namespace": lambda: attribute_of_object(types.SimpleNamespace()),
    "slots": lambda: attribute_of_object(Slots()),
    "thread": lambda: attribute_of_object(threading.local()),
    "dict": lambda: entry_of({}),
    "custom dict": lambda: entry_of(CustomDict()),
    "user dict": lambda: entry_of(collections.UserDict()),
    **{
        builder.__name__: builder
        for builder in (
            *(class_attribute, global_dict, global_variable_of_a_helper, decorated_function, variable_of_a_closure),
            *(lru_cache, function_attribute, default_argument, list_in_a_tuple, module_in_a_list, weak_keys),
            *(context_variable, items_of_a_queue),
        )
    },
}


@pytest.fixture(autouse=True)
def empty_caches(monkeypatch: Any) -> None:
    monkeypatch.setitem(globals(), "MODULE_TABLE", None)
    MODULE_CACHE.clear()


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("probe", [find_heads, lambda model, x: swap_head(model, 5, x)], ids=["find", "swap"])
def test_a_model_runs_after_a_probe_wherever_it_caches(build: Any, probe: Any) -> None:
    model = build()
    probe(model, X)
    assert model(X).isfinite().all()


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_cache_filled_by_a_real_run_survives_a_probe(build: Any) -> None:
    model = build()
    before = model(X)
    freeze_backbone(model, X)
    assert torch.equal(model(X), before)


def test_a_class_attribute_has_its_former_value_after_a_probe() -> None:
    model = class_attribute()
    find_heads(model, X)
    assert type(model).cache is None


def test_a_tensor_in_a_place_out_of_reach_is_an_error_that_names_the_holder() -> None:
    def generator() -> Any:
        value = yield
        while True:
            yield value

    tables: Any = generator()
    next(tables)
    started: list[bool] = []

    class Cached(Net):
        def table(self, device: Any) -> Any:
            if not started:
                started.append(True)
                tables.send(super().table(device))
            return next(tables)

    # Python 3.10 does not tell the garbage collector what a generator holds
    holder = r"builtins\.generator" if sys.version_info >= (3, 11) else "an object of a C extension"
    with pytest.raises(HeadSwapError, match=rf"Cached stores a tensor in {holder}") as error:
        find_heads(Cached(), X)
    assert error.value.reason == "leaked_tensor"


def test_forward_hooks_of_the_user_keep_nothing_of_a_probe() -> None:
    model = Net()
    outputs: list[Any] = []
    shapes: dict[str, Any] = {}

    class Recorder:
        def __init__(self) -> None:
            self.calls = 0
            self.inputs: list[Any] = []

        def __call__(self, module: Any, inputs: Any) -> Any:
            self.calls += 1
            self.inputs.append(inputs)

    recorder = Recorder()
    model.body.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    model.fc.register_forward_hook(lambda module, inputs, output: shapes.update(fc=output.shape))
    model.fc.register_forward_pre_hook(recorder)
    swap_head(model, 5, X)
    assert (outputs, shapes, recorder.calls, recorder.inputs) == ([], {}, 0, [])
    model(X)
    assert len(outputs) == recorder.calls == len(recorder.inputs) == 1


def test_attributes_of_objects_that_a_model_holds_are_as_they_were() -> None:
    settings = Settings({"calls": 0})

    class Counting(Net):
        def forward(self, x: Any) -> Any:
            settings.value["calls"] += 1
            vars(settings)["last"] = x
            return super().forward(x)

    swap_head(Counting(), 5, X)
    assert vars(settings) == {"value": {"calls": 0}}


def test_a_dict_that_builds_its_values_on_access_is_not_accessed() -> None:
    class Factory(collections.OrderedDict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            return super().__getitem__(key)()

    def fail() -> None:
        raise AssertionError("an item was built")

    factory = Factory(fail=fail)

    class Building(Net):
        def forward(self, x: Any) -> Any:
            return super().forward(x) if factory else x

    swap_head(Building(), 5, X)
    assert list(factory) == ["fail"]


class Hostile:
    """An object without `__dict__` that raises for every attribute it does not have."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


HOSTILE: Any = Hostile()


def test_an_object_whose_attributes_raise_is_no_obstacle() -> None:
    class Using(Net):
        def forward(self, x: Any) -> Any:
            return super().forward(x) if HOSTILE is not None else None

    assert [head.path for head in find_heads(Using(), X)] == ["fc"]
    assert [head.path for head in find_heads(Net(), (X,))] == ["fc"]


def test_a_class_attribute_with_a_number_and_a_tensor_has_its_former_value_after_a_probe() -> None:
    class Cached(Net):
        sized: Any = None

        def table(self, device: Any) -> Any:
            if Cached.sized is None:
                Cached.sized = (16, super().table(device))
            return Cached.sized[1]

    find_heads(Cached(), X)
    assert Cached.sized is None


def test_a_dictionary_that_a_function_keeps_in_its_attribute_is_as_it_was() -> None:
    def remembered(device: Any) -> Any:
        tables: Any = remembered.tables  # type: ignore[attr-defined]
        if "table" not in tables:
            tables["table"] = torch.ones(16, device=device)
        return tables["table"]

    remembered.tables = {}  # type: ignore[attr-defined]

    class Cached(Net):
        def table(self, device: Any) -> Any:
            return remembered(device)

    find_heads(Cached(), X)
    assert remembered.tables == {}  # type: ignore[attr-defined]


class Asserting(Net):
    def table(self, device: Any) -> Any:
        assert device is not None, "pytest rewrites this line"
        return torch.ones(16, device=device)


def asserting_function(x: Any) -> Any:
    assert x.dim() == 2
    return x


class CallsAsserting(Net):
    def forward(self, x: Any) -> Any:
        return super().forward(asserting_function(x))


class HoldsAsserting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.check = functools.partial(asserting_function)

    def forward(self, x: Any) -> Any:
        return super().forward(self.check(x))


@pytest.mark.parametrize("kind", [Asserting, CallsAsserting, HoldsAsserting])
def test_an_assert_that_pytest_rewrote_does_not_lead_to_the_state_of_pytest(kind: type[Net]) -> None:
    reached = surroundings_of(list(kind().modules()))
    holders = [item for item, _ in reached._objects] + [owner for owner, _ in reached._classes]
    modules = {getattr(holder, "__module__", None) or "" for holder in holders}
    assert not any(name.partition(".")[0] in ("_pytest", "pluggy") for name in modules), modules
    assert [head.path for head in find_heads(kind(), X)] == ["fc"]
