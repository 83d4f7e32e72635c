"""Describe a zoo's entry for a model, and find the code that it holds, without building the model."""

from __future__ import annotations

import enum
import functools
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from pytest_headswap.zoo.custom import ENTRY_POINTS
from pytest_headswap.zoo.registry import registration
from pytest_headswap.zoo.source_code import Code, SourceCode
from pytest_headswap.zoo.source_files import UnknownCodeError, digest
from pytest_headswap.zoo.source_walk import follow
from pytest_headswap.zoo.spec import ModelSpec

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice)
_CONTAINERS = (tuple, list, dict, set, frozenset)
_OWN_FOLDER = Path(__file__).parents[1]
_MAX_DEPTH = 30


@dataclass
class Described:
    """An object as text, and the code that it holds.

    Attributes:
        text: the same for equal objects, also in another process.
        classes: the module and the file of each of its classes.
        functions: the module and the file of each of its functions, and of its modules.
        files: its texts and paths that name a file or folder.
        unknown: why the text does not say everything; empty if it does.
    """

    text: str = ""
    classes: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    unknown: str = ""


def describe(value: Any) -> Described:
    """Describe an object: data by value, functions by code and captured values, classes by name."""
    found = Described()
    try:
        found.text = _describe(value, found, {}, 0)
    except Exception as error:  # noqa: BLE001 - the object is the user's
        found.unknown = f"the zoo's entry cannot be described: {type(error).__name__}"
    return found


@dataclass(frozen=True)
class ZooOrigins:
    """Where a zoo comes from.

    Attributes:
        places: the modules or files that define it.
        library: the library whose models it has; empty if it has none.
    """

    places: frozenset[str | Path]
    library: str = ""


def entry_code(zoo: ZooOrigins, spec: ModelSpec, code: SourceCode) -> Code:
    """Return the code that a model of a zoo rests on, with a digest of the zoo's entry.

    Args:
        zoo: where the zoo comes from.
        spec: the entry.
        code: what was read before.
    """
    entry = describe(spec)
    classes, functions = (code.locate_all(places) for places in (entry.classes, entry.functions))
    own = {item.partition(".")[0] for item in (*zoo.places, *spec.defined_in) if isinstance(item, str)}
    if spec.defined_in or (classes and not functions):  # what else the zoo's file imports says nothing about the model
        named = {*spec.defined_in, *classes, *(functions - zoo.places)}
        found = follow(code, named=named, content_only=zoo.places - named, own=own)
    else:
        libraries = [zoo.library] if zoo.library else ()
        found = follow(code, zoo.places | classes | functions, libraries=libraries, own=own)
    parts = {"entry": digest(entry.text.encode("utf-8", "surrogatepass")), **found.parts}
    try:
        parts |= {name: code.stored(Path(name)) for name in entry.files}
    except (OSError, UnknownCodeError) as error:
        return replace(found, parts=parts, unknown=f"a file of the zoo's entry cannot be read: {error}")
    return replace(found, parts=parts, unknown=entry.unknown or found.unknown)


def zoo_origins(zoo: str, code: SourceCode) -> ZooOrigins:
    """Return where a zoo comes from, by its name."""
    if registered := registration(zoo):
        load, library = registered
        return ZooOrigins(code.locate_all(describe(load).functions), library)
    where = zoo.rpartition(":")[0] or next(entry.module for entry in entry_points(group=ENTRY_POINTS, name=zoo))
    return ZooOrigins(frozenset([Path(where).resolve() if where.endswith(".py") else where]))


def _describe(value: Any, found: Described, seen: dict[int, tuple[int, Any]], depth: int) -> str:
    if isinstance(value, (str, PurePath)) and _is_stored(str(value)):
        found.files.add(str(value))
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in seen:
        return f"<{seen[id(value)][0]}>"
    seen[id(value)] = len(seen), value  # kept, so that no later object gets its id
    if depth > _MAX_DEPTH:
        found.unknown = "the zoo's entry is nested too deeply"
        return "..."

    def of(part: Any) -> str:
        return _describe(part, found, seen, depth + 1)

    return _describe_data(value, of) or _describe_code(value, found, of) or _describe_object(value, found, of)


def _is_stored(text: str) -> bool:
    with suppress(OSError, ValueError):  # such as a text that is too long for a path
        return bool(text) and Path(text).exists()
    return False


def _describe_data(value: Any, of: Callable[[Any], str]) -> str:
    """Describe a container of data; return "" for anything else."""
    if isinstance(value, enum.Enum):
        return f"{of(type(value))}.{value.name}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}[{', '.join(map(of, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"set[{', '.join(sorted(map(of, value)))}]"
    if isinstance(value, Mapping):
        return f"{type(value).__name__}{{{', '.join(f'{of(key)}: {of(item)}' for key, item in value.items())}}}"
    return f"path {value}" if isinstance(value, PurePath) else ""


def _describe_code(value: Any, found: Described, of: Callable[[Any], str]) -> str:
    """Describe a function, class or module; return "" for anything else."""
    if isinstance(value, functools.partial):
        return f"partial({of(value.func)}, {of(value.args)}, {of(value.keywords)})"
    if isinstance(value, MethodType):
        return f"{of(value.__func__)} of {of(value.__self__)}"
    if isinstance(value, FunctionType):
        return _describe_function(value, found, of)
    if isinstance(value, ModuleType):
        return _name(value.__name__, getattr(value, "__file__", None), "", found, found.functions)
    if isinstance(value, type):
        file = getattr(sys.modules.get(value.__module__), "__file__", None)
        name = _name(value.__module__, file, value.__qualname__, found, found.classes)
        if "<locals>" not in value.__qualname__ or _is_own(file):
            return name
        # made by a function, whose variables it may use
        return f"{name} {[of(item) for item in vars(value).values() if isinstance(item, FunctionType)]}"
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, BuiltinFunctionType) else ""


def _describe_function(value: FunctionType, found: Described, of: Callable[[Any], str]) -> str:
    name = _name(value.__module__ or "", value.__code__.co_filename, value.__qualname__, found, found.functions)
    cells = []
    for cell in value.__closure__ or ():
        try:
            cells.append(of(cell.cell_contents))
        except ValueError:  # not yet filled
            cells.append("empty")
    code = "" if _is_own(value.__code__.co_filename) else f"{_code(value.__code__)} {_plain_globals(value)}"
    return f"{name} {code} ({of(value.__defaults__)}, {of(value.__kwdefaults__)}, {cells})"


def _plain_globals(value: FunctionType) -> dict[str, str]:
    """Describe the data, such as a table of sizes, that a function takes from its module."""
    used = {name: value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__}
    described = {name: describe(item) for name, item in used.items() if isinstance(item, (*_PLAIN, *_CONTAINERS))}
    return {name: item.text for name, item in described.items() if not (item.classes or item.functions or item.unknown)}


def _code(code: CodeType) -> str:
    constants = [_code(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts]
    text = f"{code.co_code!r} {code.co_names} {code.co_varnames} {code.co_freevars} {constants}"
    return digest(text.encode("utf-8", "surrogatepass"))


def _describe_object(value: Any, found: Described, of: Callable[[Any], str]) -> str:
    kind = type(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, (torch.dtype, torch.device, torch.Size)):
        return repr(value)
    if torch is not None and isinstance(value, torch.Tensor):
        found.unknown = f"the zoo's entry holds a {kind.__name__}, whose values are not compared"
        return of(kind)
    if hasattr(value, "__wrapped__"):
        return f"{kind.__name__} of {of(value.__wrapped__)}"
    if is_dataclass(value):
        return (
            f"{of(kind)}({', '.join(f'{item.name}={of(getattr(value, item.name, None))}' for item in fields(value))})"
        )
    if kind.__module__ == "operator":
        return f"{kind.__name__} {of(value.__reduce__()[1:])}"
    state = getattr(value, "__dict__", None)
    if state is None or hasattr(kind, "__slots__"):
        found.unknown = f"the zoo's entry holds a {kind.__qualname__}, whose content is not known"
        return of(kind)
    return f"{of(kind)}{of(state)}"


def _name(module: str, file: str | None, name: str, found: Described, kind: set[tuple[str, str]]) -> str:
    """Return the name of a class or function, and note where its source is."""
    if (module.partition(".")[0] in sys.stdlib_module_names and module != "__main__") or _is_own(file):
        return f"{module}.{name}"
    if file is None or not Path(file).exists():
        found.unknown = f"there is no source of {module}.{name}"
        return f"{module}.{name}"
    kind.add((module, str(Path(file).resolve())))
    # the name of a zoo's file as a module holds a digest of its path
    return f"{Path(file).name}:{name}" if module.startswith("headswap_zoo_") else f"{module}.{name}"


def _is_own(file: str | None) -> bool:
    return file is not None and Path(file).is_relative_to(_OWN_FOLDER)
