"""The floors of the house: a room imports only from floors below it, and nothing heavy before it is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_headswap

PACKAGE = Path(pytest_headswap.__file__).parent

# Lowest floor first. `""` stands for the modules beside the rooms: the plugin, the command line.
FLOORS = {"engine": 1, "zoo": 2, "checks": 3, "report": 4, "_plugin": 5, "": 5}
ROOF = {"api", "plugin", "cli", "cli_reports", "strategies", "__init__"}
ON_REQUEST = {"strategies"}  # imported by the tests of users alone, never by the package, so free to import torch
SHARED = {"_docs", "_numbers", "_version"}  # constants and helpers, which any floor may read

FORBIDDEN = {
    "engine": {"pytest", "_pytest", "pluggy", "timm", "torchvision", "transformers", "rich"},
    "zoo": {"pytest", "_pytest", "pluggy", "rich"},
    "checks": {"pytest", "_pytest", "pluggy", "timm", "torchvision", "transformers", "rich"},
    "report": {"pytest", "_pytest", "pluggy", "torch", "timm", "torchvision", "transformers"},
    "_plugin": {"timm", "torchvision", "transformers"},
    "": {"timm", "torchvision", "transformers"},
}
# Report is floor 4, but knows none of the rooms below: results are plain data.
UNUSED_BELOW = {"report": {"engine", "zoo", "checks"}}
LIBRARIES = {"timm", "torchvision", "transformers"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else ""


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


def _own_room(name: str) -> str | None:
    """The room that an import leads into; None for other packages, the roof and what all share."""
    parts = name.split(".")
    if parts[0] != "pytest_headswap" or len(parts) < 2 or parts[1] in SHARED:
        return None
    return parts[1] if parts[1] in FLOORS else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(path: Path) -> None:
    room = _room(path)
    for name in _imports(path):
        target = _own_room(name)
        if target is None or target == room:
            continue
        assert target not in UNUSED_BELOW.get(room, ()), f"{path.name} imports {name}"
        if {room, target} != {"", "_plugin"}:  # the plugin and its parts are one floor
            assert FLOORS[target] < FLOORS[room], f"{path.name} imports {name}, which is not on a floor below"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_knows_nothing_that_is_not_its_business(path: Path) -> None:
    room = _room(path)
    # the file of a library, or the folder where it needs several
    allowed = {path.stem, path.parent.name} & LIBRARIES if room == "zoo" else set()
    forbidden = FORBIDDEN[room] | (LIBRARIES if room == "zoo" else set())
    found = {name.split(".")[0] for name in _imports(path)} & (forbidden - allowed)
    assert not found, f"{path.name} imports {', '.join(sorted(found))}"


@pytest.mark.parametrize(
    "path",
    # the other files of the zoo room are each imported when their zoo is asked for
    [path for path in MODULES if _room(path) in ("", "_plugin", "report") and path.stem not in ON_REQUEST]
    + [PACKAGE / "zoo" / f"{name}.py" for name in ("__init__", "model", "registry", "costs", "shards")],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_torch_is_not_imported_by_what_every_run_may_import(path: Path) -> None:
    heavy = {"torch", "pytest_headswap.engine", "pytest_headswap.checks"}
    found = [name for name in _imports(path, at_import_time=True) if any(_is_in(name, module) for module in heavy)]
    assert not found, f"{path.name} imports {', '.join(found)} when it is imported"


def _is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_there_on_request_is_imported_by_no_room(path: Path) -> None:
    names = {f"pytest_headswap.{module}" for module in ON_REQUEST}
    assert not [name for name in _imports(path) if any(_is_in(name, module) for module in names)]


def test_the_list_of_floors_is_complete() -> None:
    rooms = {_room(path) for path in MODULES}
    assert rooms == FLOORS.keys()
    assert {path.stem for path in MODULES if _room(path) == ""} == ROOF | SHARED


@pytest.mark.parametrize(
    "statement",
    [
        "import pytest_headswap",
        "import pytest_headswap.plugin.hooks",
        "import pytest_headswap.cli.main",
        "import pytest_headswap.harness.check_model",
        "import pytest_headswap.zoo",
        "import pytest_headswap.report",
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
            assert rooms <= {"plugin", "_plugin", "_docs", "_numbers", "_version"}
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
