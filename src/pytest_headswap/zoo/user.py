"""Zoos of users: `package.module:ATTR`, `file.py:ATTR`, entry points, and what may stand there.

ZOO = {"tiny": TinyNet, "small": lambda num_classes=10: Net(num_classes, depth=2)}
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_headswap.zoo.model import ModelSpec, Zoo, ZooError, unknown_name

ENTRY_POINTS = "headswap.zoos"
_KINDS = (
    "a mapping of names to factories, model classes or ModelSpec, an iterable of ModelSpec, a Zoo, or a function "
    "that returns one of these"
)


def entry_point_names() -> tuple[str, ...]:
    """The zoos that installed distributions offer, without importing them."""
    return tuple(sorted(entry.name for entry in entry_points(group=ENTRY_POINTS)))


def load_entry_point(name: str) -> Zoo:
    """The zoo that a distribution offers under `name`."""
    (entry, *_) = entry_points(group=ENTRY_POINTS, name=name)
    return as_zoo(name, _importing(f"entry point {entry.value!r}", entry.load))


def load_reference(reference: str) -> Zoo:
    """The zoo at `package.module:ATTR` or `file.py:ATTR`.

    Raises:
        ZooError: it cannot be imported, there is no such attribute, or what is there is no zoo.
    """
    where, _, attribute = reference.rpartition(":")
    if not where or not attribute:
        raise ZooError(f"{reference!r} is no zoo: write package.module:ATTR or file.py:ATTR")
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise ZooError(f"there is no file {where!r} for zoo {reference!r}, seen from {Path.cwd()}")
        module = _importing(where, lambda: _import_file(path))
    else:
        module = _importing(where, lambda: _import_module(where))
    if not hasattr(module, attribute):
        raise ZooError(unknown_name("attribute", attribute, sorted(vars(module)), where))
    return as_zoo(reference, getattr(module, attribute))


def _import_module(name: str) -> ModuleType:
    # as with `python -m`: a zoo beside the tests is found without being installed
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    """Import a file under a name of its own, so that it stands in for no other module; models stay picklable."""
    name = f"headswap_zoo_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "the name ends in .py"
    assert spec.loader is not None, "files have a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _importing(what: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ZooError(
            f"importing {what} raised {type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"
        ) from error


def as_zoo(name: str, value: Any) -> Zoo:
    """Make a zoo called `name` of what a user wrote; see the module for what that may be.

    Raises:
        ZooError: it is nothing of the kind, or its names are no strings or not unique.
    """
    if inspect.isfunction(value):
        value = _importing(f"what {name!r} returns", value)
    if isinstance(value, Zoo):
        return Zoo(name, value.names, value.make, value.versions)
    if isinstance(value, Mapping):
        specs = [_spec(name, key, item) for key, item in value.items()]
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        specs = [_listed(name, item) for item in value]
    else:
        raise ZooError(f"zoo {name!r} is {_described(value)}: it has to be {_KINDS}")
    by_name: dict[str, ModelSpec] = {}
    for spec in specs:
        if spec.name in by_name:
            raise ZooError(f"zoo {name!r} has two models called {spec.name!r}: names have to be unique")
        by_name[spec.name] = spec
    if not by_name:
        raise ZooError(f"zoo {name!r} holds no models")
    return Zoo(name, tuple(by_name), by_name.__getitem__)


def _listed(zoo: str, item: Any) -> ModelSpec:
    if not isinstance(item, ModelSpec):
        raise ZooError(f"zoo {zoo!r} lists {_described(item)}: it has to be {_KINDS}")
    return _spec(zoo, item.name, item)


def _spec(zoo: str, name: Any, item: Any) -> ModelSpec:
    if not isinstance(name, str) or not name:
        raise ZooError(f"zoo {zoo!r} calls a model {name!r}: names have to be text that is not empty")
    if isinstance(item, ModelSpec):
        if item.name != name:
            raise ZooError(f"zoo {zoo!r} has ModelSpec {item.name!r} under the name {name!r}: make them the same")
        return item
    if not callable(item):
        raise ZooError(
            f"zoo {zoo!r} has {_described(item)} as {name!r}: it has to be a factory, a class or a ModelSpec"
        )
    native = (lambda n: _checked(zoo, name, item(num_classes=n))) if _takes_num_classes(item) else None
    return ModelSpec(name, build=lambda: _checked(zoo, name, item()), native=native)


def _takes_num_classes(factory: Callable[..., Any]) -> bool:
    try:
        return "num_classes" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of a builtin
        return False


def _checked(zoo: str, name: str, model: Any) -> Any:
    from torch import nn

    if not isinstance(model, nn.Module):
        raise ZooError(f"the factory of {name!r} in zoo {zoo!r} returned {_described(model)}, not a torch.nn.Module")
    return model


def _described(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 60 else text[:57] + '...'}"
