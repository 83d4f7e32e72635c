"""Load the zoos of users from modules, files and entry points. In its shortest form, a zoo is a dict of factories:

ZOO = {"tiny": TinyNet, "small": lambda num_classes=10: Net(num_classes, depth=2)}

A factory with a parameter `num_classes` also builds the native model for comparison. If the parameter has no default,
the model is first built with 10 classes.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pytest_headswap._text import single_line, truncate
from pytest_headswap.zoo.class_count import NAME, build_with_class_count, class_count_problem, parameters_of
from pytest_headswap.zoo.spec import ModelSpec, Zoo, ZooError, unknown_name

T = TypeVar("T")

ENTRY_POINTS = "headswap.zoos"
NUM_CLASSES = 10  # for a factory without a default
_KINDS = (
    "a mapping of names to factories, model classes or ModelSpec, an iterable of ModelSpec, a Zoo, or a function "
    "that returns one of these"
)
_PACKAGE_ROOT = str(Path(__file__).parents[1])


def entry_point_names() -> tuple[str, ...]:
    """Return the names of the zoos that installed distributions register, without importing them."""
    return tuple(sorted(entry.name for entry in entry_points(group=ENTRY_POINTS)))


def load_entry_point(name: str) -> Zoo:
    """Return the zoo that a distribution registers as `name`."""
    (entry, *_) = entry_points(group=ENTRY_POINTS, name=name)
    return make_zoo(name, _call_user_code(f"importing entry point {entry.value!r}", entry.load))


def parse_reference(reference: str) -> tuple[str, str]:
    """Return the module or file, and the attribute, of a reference. This imports nothing.

    Raises:
        ZooError: the reference does not have this form, or there is no such file.
    """
    where, _, attribute = reference.rpartition(":")
    if not where or not attribute or where.endswith(":"):
        raise ZooError(f"{reference!r} is not a zoo: use package.module:ATTR or file.py:ATTR")
    if where.endswith(".py") and not Path(where).is_file():
        raise ZooError(f"zoo {reference!r}: there is no file {where!r} (working directory: {Path.cwd()})")
    return where, attribute


def load_reference(reference: str) -> Zoo:
    """Return the zoo at `package.module:ATTR` or `file.py:ATTR`.

    Raises:
        ZooError: the import failed, there is no such attribute, or it is not a zoo.
    """
    where, attribute = parse_reference(reference)
    if where.endswith(".py"):
        module = _call_user_code(f"importing {where}", lambda: _import_file(Path(where)))
    else:
        module = _call_user_code(f"importing {where}", lambda: _import_module(where))
    if not hasattr(module, attribute):
        public = sorted(name for name in vars(module) if not name.startswith("_"))
        raise ZooError(unknown_name("attribute", attribute, public, where))
    return make_zoo(reference, getattr(module, attribute))


def _import_module(name: str) -> ModuleType:
    # as with `python -m`: a zoo next to the tests works without being installed
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    """Import a file once, under a module name that is unique to its path, so that its models can be pickled."""
    name = f"headswap_zoo_{path.stem}_{hashlib.sha256(bytes(path.resolve())).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "the name ends in .py"
    assert spec.loader is not None, "files have a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # the next attempt must not find a half-imported module
        raise
    return module


def _call_user_code(what: str, run: Callable[[], T]) -> T:
    """Return the result of `run`; turn an exception into an error with its location in the user's code."""
    try:
        return run()
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_outside(frame.filename)]
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        raise ZooError(f"{what} raised {type(error).__name__}: {error}{where}") from error


def _is_outside(filename: str) -> bool:
    return not filename.startswith(("<", _PACKAGE_ROOT)) and filename != importlib.__file__


def make_zoo(name: str, value: Any) -> Zoo:
    """Convert a user's object to a zoo called `name`. `_KINDS` lists the accepted objects.

    Raises:
        ZooError: the object is of another kind, or its names are not text or not unique.
    """
    if inspect.isfunction(value):
        value = _call_user_code(f"calling {name!r}", value)
    if isinstance(value, Zoo):
        build_spec = value.spec
        return Zoo(name, value.names, lambda model: _spec(name, model, build_spec(model)), value.versions)
    if isinstance(value, Mapping):
        specs = [_spec(name, key, item) for key, item in value.items()]
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        specs = [_checked_spec(name, item) for item in value]
    else:
        raise ZooError(f"zoo {name!r} is {_describe(value)}: it must be {_KINDS}")
    if not specs:
        raise ZooError(f"zoo {name!r} has no models")
    return Zoo(name, tuple(spec.name for spec in specs), lambda wanted: next(s for s in specs if s.name == wanted))


def _checked_spec(zoo: str, item: Any) -> ModelSpec:
    if not isinstance(item, ModelSpec):
        raise ZooError(f"zoo {zoo!r} lists {_describe(item)}: it must be {_KINDS}")
    return _spec(zoo, item.name, item)


def _spec(zoo: str, name: Any, item: Any) -> ModelSpec:
    """Return the spec of one model, with factories that must return a module."""
    if isinstance(item, ModelSpec):
        if item.name != name:
            raise ZooError(f"zoo {zoo!r} has ModelSpec {item.name!r} under the name {name!r}: use the same name")
        if not callable(item.build):
            raise ZooError(f"ModelSpec {name!r} of zoo {zoo!r} has {_describe(item.build)} as build: pass a function")
        native = item.build_native and partial(_build_native, zoo, name, item.build_native)
        return replace(item, build=partial(_call_factory, zoo, name, item.build), build_native=native)
    if not callable(item) or _is_model(item):
        raise ZooError(f"zoo {zoo!r} has {_describe(item)} as {name!r}: it must be a factory, a class or a ModelSpec")
    takes = next((parameter for parameter in parameters_of(item) if parameter.name == NAME), None)
    if takes is None:
        return ModelSpec(name, build=partial(_call_factory, zoo, name, item))
    if problem := class_count_problem(item):
        raise ZooError(f"the factory of {name!r} in zoo {zoo!r} {problem}")
    native = partial(_build_native, zoo, name, item)
    return ModelSpec(
        name,
        build=partial(native, NUM_CLASSES) if takes.default is takes.empty else partial(_call_factory, zoo, name, item),
        build_native=native,
    )


def _build_native(zoo: str, name: str, factory: Callable[..., Any], num_classes: int) -> Any:
    return _call_factory(zoo, name, partial(build_with_class_count, factory, num_classes))


def _call_factory(zoo: str, name: str, factory: Callable[[], Any]) -> Any:
    model = factory()
    if not _is_model(model):
        raise ZooError(f"the factory of {name!r} in zoo {zoo!r} returned {_describe(model)}, not a torch.nn.Module")
    return model


def _is_model(value: Any) -> bool:
    from torch import nn

    return isinstance(value, nn.Module)


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {truncate(single_line(repr(value)), 60)}"
