"""List the classes, variables and caches that functions and classes can reach through the names in their code."""

from __future__ import annotations

import dis
import functools
import sys
import types
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_headswap._devices import DEVICE_TYPES

PLAIN = frozenset(
    (
        *(bool, int, float, complex, str, bytes, range, type(None), types.ModuleType),
        *(torch.Size, torch.dtype, torch.device, weakref.ProxyType, weakref.CallableProxyType),
    )
)
"""Types that hold no tensors."""
MISSING = object()
"""The value of a variable that is not assigned."""

_FOREIGN = frozenset((*sys.stdlib_module_names, "torch", "numpy")) - {"__main__"}
"""Packages that keep no tensors of a model."""
DEVICE_BRANCH = "<device>"
"""Stands among the names for a function that reads a device, and an index or the name of a type of device."""
_CACHED_FUNCTION = type(functools.lru_cache(lambda: None))


@dataclass
class ReachableCode:
    """What functions and classes can reach, without values, which change.

    Attributes:
        classes: classes of the model's own packages.
        attributes: their attributes that hold data, as pairs of class and name.
        variables: global variables that hold data or do not exist yet, as pairs of namespace and name.
        cells: variables of closures.
        self_referential: functions that name themselves, and so may keep attributes.
        caches: functions with `functools.lru_cache`.
        constants: default arguments and arguments of partial functions that may hold tensors.
        names: the names of global variables and attributes in the code.
    """

    classes: set[type] = field(default_factory=set)
    attributes: list[tuple[type, str]] = field(default_factory=list)
    variables: dict[tuple[int, str], tuple[dict[str, Any], str]] = field(default_factory=dict)
    cells: list[types.CellType] = field(default_factory=list)
    self_referential: list[types.FunctionType] = field(default_factory=list)
    caches: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


@functools.lru_cache(maxsize=32)  # the runs of one model share the entry
def reachable_code(roots: frozenset[Any]) -> ReachableCode:
    """Return what these functions and classes can reach."""
    reach = ReachableCode()
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        value = stack.pop()
        if id(value) in seen or not is_code(value):
            continue
        seen.add(id(value))
        if isinstance(value, type):
            stack += _reach_of_class(value, reach)
        elif isinstance(value, types.FunctionType):
            if not _is_foreign_name(value.__module__):
                stack += _reach_of_function(value, reach)
        elif isinstance(value, functools.partial):
            stack.append(value.func)
            reach.constants += [item for item in (*value.args, *value.keywords.values()) if type(item) not in PLAIN]
        elif isinstance(value, _CACHED_FUNCTION):
            reach.caches.append(value)
            stack.append(value.__wrapped__)
        elif isinstance(value, property):
            stack += (value.fget, value.fset)
        else:
            stack.append(value.func if isinstance(value, functools.cached_property) else value.__func__)
    return reach


def _reach_of_class(kind: type, reach: ReachableCode) -> Iterator[Any]:
    """Add what a class reaches. Yield the functions and classes among its attributes."""
    for base in kind.__mro__:
        if is_foreign(base) or base in reach.classes:
            continue
        reach.classes.add(base)
        for name, value in vars(base).items():
            if is_code(value):
                yield value
            elif type(value) not in PLAIN:
                reach.attributes.append((base, name))


def _reach_of_function(function: types.FunctionType, reach: ReachableCode) -> Iterator[Any]:
    """Add what a function reaches. Yield the functions and classes that it names or closes over."""
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    reach.constants += [value for value in defaults if type(value) not in PLAIN]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name != "__class__":  # the class that `super()` reads
            reach.cells.append(cell)
            yield cell_content(cell)
    names, _ = _names_in(function.__code__)
    reach.names |= names
    if "device" in names and ("index" in names or _names_device_type(function.__code__)):
        reach.names.add(DEVICE_BRANCH)
    if function.__name__ in names or function.__name__ in function.__code__.co_freevars:
        reach.self_referential.append(function)
    for namespace, name in _variables_of(function):
        value = namespace.get(name)
        if is_code(value):
            yield value
        else:
            reach.variables[id(namespace), name] = (namespace, name)


def is_code(value: Any) -> bool:
    """Return whether a value is a function or a class, also as a method, a property, a partial or a cached function."""
    return issubclass(type(value), _CODE)


_CODE = (
    *(type, types.FunctionType, types.MethodType, staticmethod, classmethod, property),
    *(functools.partial, functools.cached_property, _CACHED_FUNCTION),
)


def is_foreign(kind: type) -> bool:
    """Return whether a class belongs to Python, torch or NumPy."""
    return _is_foreign_name(kind.__module__)


def cell_content(cell: types.CellType) -> Any:
    """Return the value of a variable of a closure, or `MISSING`."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


@functools.cache
def _is_foreign_name(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in _FOREIGN


def _variables_of(function: types.FunctionType) -> Iterable[tuple[dict[str, Any], str]]:
    """Yield the global variables that a function names, also as attributes of a Python module.

    A name that is no identifier is not from the source: rewritten asserts reach all of pytest through such a name.
    """
    names, assigns = _names_in(function.__code__)
    for name in filter(str.isidentifier, names):
        value = function.__globals__.get(name)
        if not isinstance(value, types.ModuleType):
            if assigns or name in function.__globals__:
                yield function.__globals__, name
        elif not _is_foreign_name(value.__name__):
            yield from ((vars(value), attribute) for attribute in names if attribute in vars(value))


@functools.cache
def _names_device_type(code: types.CodeType) -> bool:
    """Return whether a function, or one inside it, contains the name of a type of device."""
    return any(
        _names_device_type(value) if isinstance(value, types.CodeType) else is_device_type(value)
        for value in code.co_consts
    )


def is_device_type(value: Any) -> bool:
    """Return whether a value names a device or its type, or is a container with one, as for `kind in KINDS`."""
    if isinstance(value, str):
        kind = value.partition(":")[0]
        return kind in _DEVICE_TYPES or kind == torch._C._get_privateuse1_backend_name()
    return isinstance(value, _COLLECTIONS) and any(isinstance(item, str) and is_device_type(item) for item in value)


_DEVICE_TYPES = frozenset(("cpu", "hip", *DEVICE_TYPES))
_COLLECTIONS = (tuple, list, dict, set, frozenset)


@functools.cache
def _names_in(code: types.CodeType) -> tuple[frozenset[str], bool]:
    """Return the names of global variables and attributes in a function, and whether it assigns global variables.

    Functions inside it count as well.
    """
    nested = [_names_in(item) for item in code.co_consts if isinstance(item, types.CodeType)]
    assigns = _STORE_GLOBAL in code.co_code[::2] or any(inner for _, inner in nested)
    return frozenset(code.co_names).union(*(names for names, _ in nested)), assigns


_STORE_GLOBAL = dis.opmap["STORE_GLOBAL"]
