"""The floors of the house: a room imports only from rooms below it, and nothing heavy before it is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import pytest_headswap

PACKAGE = Path(pytest_headswap.__file__).parent

GROUND, ROOF = "ground", "roof"  # the modules beside the rooms: plain data and text, and what users import
ON_GROUND = {"head", "_case_options", "_text", "_numbers", "_globs", "_links", "_version"}
ON_ROOF = {"__init__", "strategies"}
ON_REQUEST = {"strategies"}  # imported by the tests of users alone, never by the package, so free to import torch

# Lowest floor first.
FLOORS = (
    *(GROUND, "engine", "results", "zoo", "expectations", "report"),
    *("case", "checks", "harness", "isolation", "plugin", "cli", ROOF),
)
# Rooms below that a room does not know all the same: results are plain data, and the command line needs no pytest.
UNUSED_BELOW = {
    "results": {"engine"},
    "zoo": {"results"},
    "expectations": {"engine", "zoo"},
    "report": {"engine", "zoo", "expectations"},
    "cli": {"plugin"},
}
ENGINE = ("pytest_headswap.engine", "pytest_headswap.engine.pytorch")  # these declare what others may use
LIBRARIES = {"timm", "torchvision", "transformers"}
PYTEST = {"pytest", "_pytest", "pluggy", "xdist"}
FORBIDDEN = {
    GROUND: PYTEST | LIBRARIES | {"torch", "numpy", "rich", "jinja2", "hypothesis"},
    "engine": PYTEST | LIBRARIES | {"rich"},
    "results": PYTEST | LIBRARIES | {"torch", "rich"},
    "zoo": PYTEST | LIBRARIES | {"rich"},
    "expectations": PYTEST | LIBRARIES | {"torch", "rich"},
    "report": PYTEST | LIBRARIES | {"torch"},
    "case": PYTEST | LIBRARIES | {"rich"},
    "checks": PYTEST | LIBRARIES | {"rich"},
    "harness": PYTEST | LIBRARIES | {"rich"},
    "isolation": PYTEST | LIBRARIES | {"rich"},
    "plugin": LIBRARIES,
    "cli": PYTEST | LIBRARIES,
    ROOF: PYTEST | LIBRARIES,
}
# What every run may import; case and checks are imported with torch, once a zoo is asked for.
LIGHT = set(FLOORS) - {"engine", "zoo", "case", "checks"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    if len(relative.parts) > 1:
        return relative.parts[0]
    return GROUND if path.stem in ON_GROUND else ROOF


def _imports(path: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """Names of imported modules; `from a import b` counts as `a.b` too, since b may be a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _statements(tree) if at_import_time else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: no functions, and no `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _statements(child)


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {_module(path): path for path in MODULES}


def _own_modules(path: Path) -> set[str]:
    """The modules of the package that one imports, wherever it does so."""
    found = set()
    for name in _imports(path):
        if name in NAMES or (name := name.rpartition(".")[0]) in NAMES:
            found.add(name)
    return found - {_module(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(path: Path) -> None:
    room = _room(path)
    for name in _own_modules(path):
        target = _room(NAMES[name])
        if target == room:
            continue
        assert target not in UNUSED_BELOW.get(room, ()), f"{path.name} imports {name}"
        assert FLOORS.index(target) < FLOORS.index(room), f"{path.name} imports {name}, which is not on a floor below"


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """What is on a circle, or leads from one to another; empty where there is none."""
    graph = {node: set(targets) for node, targets in graph.items()}
    while True:
        ends = {node for node, targets in graph.items() if not targets & graph.keys()}
        starts = graph.keys() - {target for targets in graph.values() for target in targets}
        if not ends | starts:
            return sorted(graph)
        graph = {node: targets for node, targets in graph.items() if node not in ends | starts}


def test_no_two_files_need_each_other() -> None:
    assert _circle({name: _own_modules(path) for name, path in NAMES.items()}) == []


def test_other_folders_use_exactly_the_names_that_the_engine_declares() -> None:
    """Public names may be unused within the package. All other names must be used."""
    used = {name for path in MODULES if _room(path) != "engine" for name in _imports(path) if _is_in(name, ENGINE[0])}
    declared = {f"{module}.{name}" for module in ENGINE for name in import_module(module).__all__}
    public = {f"{ENGINE[0]}.{name}" for name in pytest_headswap.__all__}
    assert used - declared == set(), "not declared by the engine"
    assert declared - used - public == set(), "declared, but not used"


@pytest.mark.parametrize("folder", ["engine", "plugin"])
def test_no_two_parts_of_a_room_need_each_other(folder: str) -> None:
    """A part is a module of the room or a folder in it."""
    depth = f"pytest_headswap.{folder}.".count(".")
    graph: dict[str, set[str]] = {}
    for name, path in NAMES.items():
        parts = {
            target.split(".")[depth] for target in _own_modules(path) if target.startswith(f"pytest_headswap.{folder}.")
        }
        if name.startswith(f"pytest_headswap.{folder}."):
            own = name.split(".")[depth]
            graph.setdefault(own, set()).update(parts - {own})
    assert _circle(graph) == []


def test_options_are_read_where_a_run_or_a_test_of_the_user_begins() -> None:
    readers = {name for name, path in NAMES.items() if "pytest_headswap.plugin.options" in _own_modules(path)}
    rest = {name for name in readers if not name.startswith("pytest_headswap.plugin.user_tests.")}
    assert rest == {"pytest_headswap.plugin.hooks"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_knows_nothing_that_is_not_its_business(path: Path) -> None:
    room = _room(path)
    # the file of a library, or the folder where it needs several
    allowed = {path.stem, path.parent.name} & LIBRARIES if room == "zoo" else set()
    found = {name.split(".")[0] for name in _imports(path)} & (FORBIDDEN[room] - allowed)
    assert not found, f"{path.name} imports {', '.join(sorted(found))}"


@pytest.mark.parametrize(
    "path",
    # the other files of the zoo room are each imported when their zoo is asked for
    [path for path in MODULES if _room(path) in LIGHT and path.stem not in ON_REQUEST]
    + [PACKAGE / "zoo" / f"{name}.py" for name in ("__init__", "spec", "registry", "selection", "custom")],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_torch_is_not_imported_by_what_every_run_may_import(path: Path) -> None:
    heavy = {"torch", "pytest_headswap.engine", "pytest_headswap.case", "pytest_headswap.checks"}
    found = [name for name in _imports(path, at_import_time=True) if any(_is_in(name, module) for module in heavy)]
    assert not found, f"{path.name} imports {', '.join(found)} when it is imported"


def _is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_there_on_request_is_imported_by_no_room(path: Path) -> None:
    names = {f"pytest_headswap.{module}" for module in ON_REQUEST}
    assert not [name for name in _imports(path) if any(_is_in(name, module) for module in names)]


def test_the_list_of_floors_is_complete() -> None:
    assert {_room(path) for path in MODULES} == set(FLOORS) == FORBIDDEN.keys()
    assert {path.stem for path in MODULES if path.parent == PACKAGE} == ON_GROUND | ON_ROOF


@pytest.mark.parametrize(
    "statement",
    [
        "import pytest_headswap",
        "import pytest_headswap.plugin.hooks",
        "import pytest_headswap.cli.main",
        "import pytest_headswap.harness.check_model",
        "import pytest_headswap.zoo.selection",
        "import pytest_headswap.results",
        "import pytest_headswap.report",
        "import pytest_headswap.plugin.read_expectations",
        "import pytest_headswap; pytest_headswap.__version__; dir(pytest_headswap)",
    ],
)
def test_nothing_heavy_is_loaded_by_an_import(statement: str) -> None:
    code = f"import sys; {statement}; print(sorted({{'torch', 'timm', 'numpy'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_that_asks_for_no_zoo_loads_no_torch(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_heavy_is_loaded(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("headswap")
            assert not {"torch", "timm", "numpy"} & sys.modules.keys()
            rooms = {name.split(".")[1] for name in sys.modules if name.startswith("pytest_headswap.")}
            assert rooms <= {"plugin", "harness", "_case_options", "_text", "_numbers", "_links", "_version"}
        """
    )
    # hypothesis and others may load numpy on their own
    pytester.runpytest_subprocess("-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_the_public_names_are_fetched_when_they_are_used() -> None:
    for name in pytest_headswap.__all__:
        assert getattr(pytest_headswap, name) is not None
        assert name in dir(pytest_headswap)
    with pytest.raises(AttributeError, match="has no attribute 'swap_tail'"):
        _ = pytest_headswap.swap_tail
