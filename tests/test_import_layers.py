"""Folders of the package import only from lower folders, and heavy libraries are imported only on demand."""

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

BASE, PUBLIC = "base", "public"  # layers of the top-level modules: plain data and text, and what users import
BASE_MODULES = {"head", "_check_names", "_text", "_numbers", "_globs", "_links", "_version", "_devices", "_packages"}
PUBLIC_MODULES = {"__init__", "strategies"}
ONLY_FOR_USERS = {"strategies"}  # the package itself never imports these, so they may import torch

# Lowest layer first.
LAYERS = (
    *(BASE, "engine", "results", "zoo", "expectations", "report"),
    *("case", "checks", "harness", "isolation", "plugin", "cli", PUBLIC),
)
# Lower folders that a folder must not import either: results are plain data, and the command line needs no pytest.
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
    BASE: PYTEST | LIBRARIES | {"torch", "numpy", "rich", "jinja2", "hypothesis"},
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
    PUBLIC: PYTEST | LIBRARIES,
}
# Layers that every run may import. The others import torch, which only a run with a zoo needs.
LIGHT = set(LAYERS) - {"engine", "zoo", "case", "checks"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def _layer(path: Path) -> str:
    top, *rest = path.relative_to(PACKAGE).with_suffix("").parts
    if top in PUBLIC_MODULES:
        return PUBLIC
    return top if rest else BASE


def _is_only_for_users(path: Path) -> bool:
    return path.relative_to(PACKAGE).parts[0] in ONLY_FOR_USERS


def _imports(path: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """Yield the names of imported modules. `from a import b` yields `a.b`, because b may be a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _statements(tree) if at_import_time else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run on import: everything outside functions and `if TYPE_CHECKING:`."""
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
    """Return the modules of the package that a module imports, at any depth."""
    found = set()
    for name in _imports(path):
        if name in NAMES or (name := name.rpartition(".")[0]) in NAMES:
            found.add(name)
    return found - {_module(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_folder_imports_only_from_lower_folders(path: Path) -> None:
    layer = _layer(path)
    for name in _own_modules(path):
        target = _layer(NAMES[name])
        if target == layer:
            continue
        assert target not in UNUSED_BELOW.get(layer, ()), f"{path.name} imports {name}"
        assert LAYERS.index(target) < LAYERS.index(layer), f"{path.name} imports {name}, which is not in a lower folder"


def _cycles(graph: dict[str, set[str]]) -> list[str]:
    """Return the sorted nodes on or between cycles of a graph."""
    graph = {node: set(targets) for node, targets in graph.items()}
    while True:
        ends = {node for node, targets in graph.items() if not targets & graph.keys()}
        starts = graph.keys() - {target for targets in graph.values() for target in targets}
        if not ends | starts:
            return sorted(graph)
        graph = {node: targets for node, targets in graph.items() if node not in ends | starts}


def test_no_module_imports_are_circular() -> None:
    assert _cycles({name: _own_modules(path) for name, path in NAMES.items()}) == []


def test_other_folders_use_exactly_the_names_that_the_engine_declares() -> None:
    """Public names may be unused within the package. All other names must be used."""
    used = {name for path in MODULES if _layer(path) != "engine" for name in _imports(path) if _is_in(name, ENGINE[0])}
    declared = {f"{module}.{name}" for module in ENGINE for name in import_module(module).__all__}
    public = {f"{ENGINE[0]}.{name}" for name in pytest_headswap.__all__}
    assert used - declared == set(), "not declared by the engine"
    assert declared - used - public == set(), "declared, but not used"


@pytest.mark.parametrize("folder", ["engine", "plugin"])
def test_no_imports_between_subfolders_are_circular(folder: str) -> None:
    depth = f"pytest_headswap.{folder}.".count(".")
    graph: dict[str, set[str]] = {}
    for name, path in NAMES.items():
        parts = {
            target.split(".")[depth] for target in _own_modules(path) if target.startswith(f"pytest_headswap.{folder}.")
        }
        if name.startswith(f"pytest_headswap.{folder}."):
            own = name.split(".")[depth]
            graph.setdefault(own, set()).update(parts - {own})
    assert _cycles(graph) == []


def test_only_hooks_and_user_tests_read_options() -> None:
    readers = {name for name, path in NAMES.items() if "pytest_headswap.plugin.options" in _own_modules(path)}
    rest = {name for name in readers if not name.startswith("pytest_headswap.plugin.user_tests.")}
    assert rest == {"pytest_headswap.plugin.hooks"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_folder_imports_no_forbidden_library(path: Path) -> None:
    layer = _layer(path)
    # only the file or folder of a library may import it
    allowed = {path.stem, path.parent.name} & LIBRARIES if layer == "zoo" else set()
    found = {name.split(".")[0] for name in _imports(path)} & (FORBIDDEN[layer] - allowed)
    assert not found, f"{path.name} imports {', '.join(sorted(found))}"


@pytest.mark.parametrize(
    "path",
    # the other files of zoo are imported only when their zoo is requested
    [path for path in MODULES if _layer(path) in LIGHT and not _is_only_for_users(path)]
    + [PACKAGE / "zoo" / f"{name}.py" for name in ("__init__", "spec", "registry", "selection", "custom")]
    + [PACKAGE / "case" / f"{name}.py" for name in ("__init__", "options")],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_importing_a_light_module_does_not_import_torch(path: Path) -> None:
    heavy = {"torch", "pytest_headswap.engine", "pytest_headswap.case", "pytest_headswap.checks"}
    names = (name for name in _imports(path, at_import_time=True) if not _is_in(name, "pytest_headswap.case.options"))
    found = [name for name in names if any(_is_in(name, module) for module in heavy)]
    assert not found, f"{path.name} imports {', '.join(found)} when it is imported"


def _is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_strategies_is_not_imported_by_the_package(path: Path) -> None:
    if _is_only_for_users(path):
        return
    names = {f"pytest_headswap.{module}" for module in ONLY_FOR_USERS}
    assert not [name for name in _imports(path) if any(_is_in(name, module) for module in names)]


def test_every_folder_has_a_layer() -> None:
    assert {_layer(path) for path in MODULES} == set(LAYERS) == FORBIDDEN.keys()
    tops = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert tops - set(LAYERS) == BASE_MODULES | PUBLIC_MODULES


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
def test_public_imports_load_no_torch(statement: str) -> None:
    code = f"import sys; {statement}; print(sorted({{'torch', 'timm', 'numpy'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_run_without_a_zoo_loads_no_torch(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_heavy_is_loaded(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("headswap")
            assert not {"torch", "timm", "numpy"} & sys.modules.keys()
            folders = {name.split(".")[1] for name in sys.modules if name.startswith("pytest_headswap.")}
            light = {"_text", "_numbers", "_links", "_check_names", "_version", "_devices"}
            assert folders <= {"plugin", "harness", "case", *light}
        """
    )
    # the plugins of other packages, such as hypothesis, may load numpy
    pytester.runpytest_subprocess("-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_public_names_are_imported_on_first_use() -> None:
    for name in pytest_headswap.__all__:
        assert getattr(pytest_headswap, name) is not None
        assert name in dir(pytest_headswap)
    with pytest.raises(AttributeError, match="has no attribute 'swap_tail'"):
        _ = pytest_headswap.swap_tail
