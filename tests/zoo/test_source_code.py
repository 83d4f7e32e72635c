"""The code that a model rests on: any change to it changes its parts, and no other change does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_headswap.zoo.entry_code import ZooOrigins, describe, entry_code
from pytest_headswap.zoo.source_code import Code, SourceCode
from pytest_headswap.zoo.source_walk import follow
from pytest_headswap.zoo.spec import ModelSpec

TOP = "headswap_library"


class Library:
    """A package in a folder that is on `sys.path`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, files: dict[str, str]) -> None:
        """Write files, with an empty `__init__.py` in each folder that lacks one."""
        for name, text in files.items():
            path = self.folder / TOP / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            for parent in path.parents[: len(Path(name).parts)]:
                if path.suffix == ".py" and not (parent / "__init__.py").exists():
                    (parent / "__init__.py").write_text("")

    def named(self, *modules: str) -> Code:
        """Return the code of modules that a zoo names."""
        return follow(SourceCode(), named=[f"{TOP}.{module}" for module in modules])

    def run(self, *modules: str) -> Code:
        """Return the code of modules that run."""
        return follow(SourceCode(), [f"{TOP}.{module}" for module in modules])


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.syspath_prepend(tmp_path)
    return Library(tmp_path)


def _files(code: Code) -> set[str]:
    return {name.removeprefix(f"{TOP}/") for name in code.parts if name.startswith(f"{TOP}/") and name != f"{TOP}/"}


IMPORTS = [
    "from .{0} import thing",
    "from . import {0}",
    f"import {TOP}.{{0}}",
    f"from {TOP}.{{0}} import thing as other",
    f"from {TOP} import {{0}} as other",
    "from .{0} import *",
    "def late():\n    from .{0} import thing",
    "class Late:\n    from .{0} import thing",
    "try:\n    from .{0} import thing\nexcept ImportError:\n    thing = None",
    "if True: from .{0} import thing",
    "x = 1; from .{0} import thing",
    "from .{0} import (\n    thing,  # a comment )\n    other,\n)",
    "from .\\\n    {0} import thing",
    "match 1:\n    case 1:\n        from .{0} import thing",
    f"import importlib\nimportlib.import_module('{TOP}.{{0}}')",
    f"__import__('{TOP}.{{0}}')",
    "import importlib\nimportlib.import_module('.{0}', __package__)",
    "import importlib\nimportlib.import_module(f'.{{name}}', __package__)  # {0}",
    "import importlib\nimportlib.import_module(__name__ + '.' + name)  # {0}",
]


@pytest.mark.parametrize("statement", IMPORTS)
@pytest.mark.parametrize("exact", [True, False])
def test_every_kind_of_import_is_followed(library: Library, statement: str, exact: bool) -> None:
    library.write({"a.py": statement.format("b"), "b.py": "thing = other = 1\n", "c.py": ""})
    read = library.named if exact else library.run
    before = read("a")
    library.write({"c.py": "CHANGED = 1\n"})
    whole = f"{TOP}/" in before.parts  # a computed name of the package's own: all its files count
    assert (read("a").parts == before.parts) != whole
    before = read("a")
    library.write({"b.py": "thing = other = 2\n"})
    assert read("a").parts != before.parts
    assert not before.unknown


@settings(max_examples=25)
@given(
    edges=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, len(IMPORTS) - 6)), max_size=14),
    changed=st.integers(0, 7),
    exact=st.booleans(),
)
def test_a_change_matters_if_imports_lead_to_it(edges: list[tuple[int, int, int]], changed: int, exact: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder))
        texts = dict.fromkeys(range(8), "thing = other = 1\n")
        for source, target, kind in edges:
            texts[source] += IMPORTS[kind].format(f"m{target}") + "\n"
        library.write({f"m{number}.py": text for number, text in texts.items()})
        reached, stack = set(), [0]
        while stack:
            if (number := stack.pop()) not in reached:
                reached.add(number)
                stack += [target for source, target, _ in edges if source == number]
        sys.path.insert(0, folder)
        try:
            read = library.named if exact else library.run
            before = read("m0").parts
            library.write({f"m{changed}.py": texts[changed] + "# a comment is a change, too\n"})
            assert (read("m0").parts != before) == (changed in reached)
        finally:
            sys.path.remove(folder)


def test_a_package_that_passes_names_on_leads_to_their_modules(library: Library) -> None:
    library.write(
        {
            "layers/__init__.py": (
                "from .mlp import Mlp as Mlp\nfrom .norm import *\nfrom . import drop\nfrom .other import Other\n"
                "__all__ = ['Mlp', 'Other']\n"
            ),
            "layers/mlp.py": "class Mlp: ...",
            "layers/norm.py": "class Norm: ...",
            "layers/drop.py": "",
            "layers/other.py": "class Other: ...",
            "net.py": f"from {TOP}.layers import Mlp, Norm, drop",
        }
    )
    before = library.named("net")
    reached = {"net.py", "layers/mlp.py", "layers/norm.py", "layers/drop.py", "layers/__init__.py", "__init__.py"}
    assert _files(before) == reached
    assert "layers/other.py" in _files(library.run("net")), "Python runs it along with the package"
    library.write({"layers/new.py": "class New: ..."})
    text = (library.folder / TOP / "layers/__init__.py").read_text()
    library.write({"layers/__init__.py": text.replace("'Other'", "'Other', 'New'") + "from .new import New\n"})
    assert library.named("net").parts == before.parts, "another name is passed on"
    library.write({"layers/__init__.py": text + "Mlp.depth = 3\n"})
    assert library.named("net").parts != before.parts, "the package changes what it passes on"
    library.write({"layers/__init__.py": text.replace(".mlp", ".other")})
    assert library.named("net").parts != before.parts, "the name comes from elsewhere"


@pytest.mark.parametrize(
    "text",
    [
        "def make(): ...",
        "import os; name = os.sep",
        "def __getattr__(name): ...",
        "from .layers import anything",
    ],
)
def test_a_package_that_defines_a_name_counts_as_a_whole(library: Library, text: str) -> None:
    library.write({"parts/__init__.py": text, "net.py": "from .parts import make, name, anything"})
    before = library.named("net").parts
    library.write({"parts/__init__.py": f"{text}\nCHANGED = 1\n"})
    assert library.named("net").parts != before


def test_what_stands_behind_an_import_on_its_line_counts(library: Library) -> None:
    library.write(
        {"parts/__init__.py": "from .a import A; DEPTH = 2", "parts/a.py": "A = 1", "parts/b.py": "from .a import A"}
    )
    before = library.named("parts.b").parts
    library.write({"parts/__init__.py": "from .a import A; DEPTH = 3"})
    assert library.named("parts.b").parts != before


@pytest.mark.parametrize(
    "text",
    [
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module\nimport_module(f'{name}.x')",
        "__import__(name)",
        "exec(code)",
        "import runpy\nrunpy.run_path(path)",
        "import torch\ntorch.hub.load('owner/repo', 'net')",
        "from importlib.metadata import entry_points\nentry_points(group='nets')",
        "from importlib.util import spec_from_file_location\nspec_from_file_location('x', path)",
        "no Python at all",
        "from ..... import x",
    ],
)
def test_code_that_cannot_be_known_is_said_to_be_unknown(library: Library, text: str) -> None:
    library.write({"net.py": "from .loader import load", "loader.py": text})
    assert f"{TOP}/loader.py" in library.named("net").unknown
    assert library.run("net").unknown


def test_a_compiled_module_is_unknown_and_counts(library: Library) -> None:
    from importlib.machinery import EXTENSION_SUFFIXES

    library.write({"net.py": "from . import fast"})
    compiled = library.folder / TOP / f"fast{EXTENSION_SUFFIXES[0]}"
    compiled.write_bytes(b"\x7fELF 1")
    before = library.named("net")
    assert "is compiled" in before.unknown
    compiled.write_bytes(b"\x7fELF 2")
    assert library.named("net").parts != before.parts


def test_data_files_of_a_package_count(library: Library) -> None:
    library.write({"net.py": "from . import sizes", "sizes.py": "", "sizes.json": "{}", "data/more/table.txt": "1"})
    for name in ("sizes.json", "data/more/table.txt", "new.yaml"):
        before = library.named("net").parts
        library.write({name: "changed"})
        assert library.named("net").parts != before
    before = library.named("net").parts
    library.write({"__pycache__/net.pyc": "x", ".hidden": "x"})
    assert library.named("net").parts == before


def test_a_file_that_a_script_names_counts(tmp_path: Path) -> None:
    script = tmp_path / "zoo.py"
    script.write_text("import json\nSIZES = json.load(open('sizes.json'))\nTABLES = 'it is don\\'t', \"tables\"\n")
    (tmp_path / "tables").mkdir()
    seen = []
    for name in ("sizes.json", "tables/a.csv", "other.json"):
        before = follow(SourceCode(), [script]).parts
        (tmp_path / name).write_text("1")
        seen.append(follow(SourceCode(), [script]).parts != before)
    assert seen == [True, True, False]


def test_environment_variables_that_the_code_reads_count(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.write(
        {
            "net.py": "import os\nA = os.environ['NET_A']\nB = os.environ.get('NET_B', '0')\nC = os.getenv('NET_C')\n"
            "if 'NET_D' in os.environ: pass\n"
        }
    )
    for name in ("NET_A", "NET_B", "NET_C", "NET_D"):
        before = library.named("net").parts
        monkeypatch.setenv(name, "secret")
        after = library.named("net").parts
        assert after != before
        assert "secret" not in str(after)
    monkeypatch.setenv("NET_E", "1")
    assert library.named("net").parts == after


def test_installed_packages_count_by_version_and_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_headswap.zoo import source_code

    installed = tmp_path / "site-packages"
    info = installed / f"{TOP}-1.0.dist-info"
    info.mkdir(parents=True)
    (installed / f"{TOP}.py").write_text("")
    monkeypatch.syspath_prepend(installed)
    script = tmp_path / "zoo.py"
    script.write_text(f"import {TOP}\n")

    def parts(version: str, record: str) -> dict[str, str]:
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {TOP}\nVersion: {version}\n")
        (info / "RECORD").write_text(record)
        source_code.installed_version.cache_clear()
        return follow(SourceCode(), [script]).parts

    one = parts("1.0", f"{TOP}.py,sha256=abc,3\n")
    assert parts("1.0", f"{TOP}.py,sha256=abc,3\n{TOP}-1.0.dist-info/RECORD,,\n../../bin/x,sha256=d,1\n") == one
    assert parts("1.1", f"{TOP}.py,sha256=abc,3\n") != one
    assert parts("1.0", f"{TOP}.py,sha256=abd,3\n") != one, "another build of the same version"


def test_a_missing_package_counts_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    script = tmp_path / "zoo.py"
    script.write_text("try:\n    import headswap_optional\nexcept ImportError:\n    pass\n")
    before = follow(SourceCode(), [script]).parts
    (tmp_path / "headswap_optional.py").write_text("")
    assert follow(SourceCode(), [script]).parts != before


class _Size:
    def __init__(self, width: int) -> None:
        self.width = width


def _make(width: Any = 1) -> Any:
    return width


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3) | st.binary(max_size=2) | st.floats(0, 1),
    lambda part: (
        st.lists(part, max_size=3)
        | st.tuples(part, part)
        | st.dictionaries(st.text(max_size=2), part, max_size=3)
        | st.builds(_Size, part)
    ),
    max_leaves=6,
)


def _plain(value: Any) -> str:
    if isinstance(value, _Size):
        return f"Size({_plain(value.width)})"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}{[_plain(item) for item in value]}"
    if isinstance(value, dict):
        return f"dict{[(key, _plain(item)) for key, item in value.items()]}"
    return repr(value)


@given(VALUES, VALUES)
def test_entries_are_described_alike_only_if_they_are_alike(one: Any, other: Any) -> None:
    wrap: list[Callable[[Any], Any]] = [lambda value: value, partial(partial, _make), lambda value: lambda: value]
    for around in wrap:
        texts = [describe(around(value)).text for value in (one, other)]
        assert describe(around(one)).text == texts[0]
        assert (texts[0] == texts[1]) == (_plain(one) == _plain(other))


def test_functions_differ_by_code_defaults_and_the_data_that_they_read() -> None:
    module: dict[str, Any] = {"__name__": __name__, "WIDTHS": [1, 2]}
    texts = set()
    for text in (
        "lambda: 1",
        "lambda: 2",
        "lambda x=1: 1",
        "lambda *, x=1: 1",
        "lambda: WIDTHS",
        "lambda: [x for x in (1,)]",
    ):
        texts.add(describe(eval(text, module)).text)
    module["WIDTHS"] = [1, 3]
    texts.add(describe(eval("lambda: WIDTHS", module)).text)
    assert len(texts) == 7


class _Raising(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("no")


def test_what_cannot_be_compared_is_unknown() -> None:
    import torch

    class Slotted:
        __slots__ = ("width",)

    for value in (torch.ones(2), [torch.nn.Linear(2, 2)], Slotted(), _Raising(), iter([1])):
        assert describe(value).unknown
    assert not describe([torch.nn.ReLU(), torch.float32, _Size(2)]).unknown


@pytest.fixture
def module(library: Library) -> Iterator[Any]:
    def load(name: str) -> ModuleType:
        import importlib

        importlib.invalidate_caches()
        return importlib.import_module(f"{TOP}.{name}")

    yield load
    for name in [name for name in sys.modules if name.partition(".")[0] == TOP]:
        del sys.modules[name]


def test_a_class_rests_on_its_module_and_a_function_on_its_zoo(library: Library, module: Any) -> None:
    library.write(
        {
            "zoo.py": "from .one import One\nfrom .two import Two\ndef two(): return Two()\n",
            "one.py": "from .shared import x\nclass One: ...",
            "two.py": "class Two: ...",
            "shared.py": "x = 1",
        }
    )
    zoo = module("zoo")
    origins = ZooOrigins(frozenset([f"{TOP}.zoo"]))
    specs = {
        "class": ModelSpec("a", zoo.One),
        "function": ModelSpec("b", zoo.two),
        "named": ModelSpec("c", zoo.two, defined_in=(f"{TOP}.two",)),
    }
    files = {name: _files(entry_code(origins, spec, SourceCode())) for name, spec in specs.items()}
    assert files["class"] == {"zoo.py", "one.py", "shared.py", "__init__.py"}
    assert files["function"] == {"zoo.py", "one.py", "two.py", "shared.py", "__init__.py"}
    assert files["named"] == {"zoo.py", "two.py", "__init__.py"}


def test_a_class_in_the_file_of_the_zoo_rests_on_what_the_file_imports(library: Library, module: Any) -> None:
    library.write({"zoo.py": "from .parts import x\nclass Net: ...", "parts.py": "x = 1"})
    spec = ModelSpec("a", module("zoo").Net)
    found = entry_code(ZooOrigins(frozenset([f"{TOP}.zoo"])), spec, SourceCode())
    assert _files(found) == {"zoo.py", "parts.py", "__init__.py"}


@pytest.mark.parametrize(
    "change",
    [
        {"head": "fc"},
        {"skip_reason": "no"},
        {"family": "f"},
        {"tags": ("t",)},
        {"example_inputs": _make},
        {"name": "b"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_an_entry_counts(change: dict[str, Any]) -> None:
    before = describe(ModelSpec("a", _make)).text
    assert describe(ModelSpec(**{"name": "a", "build": _make, **change})).text != before


def test_a_checkpoint_that_an_entry_holds_counts_by_content(tmp_path: Path) -> None:
    checkpoint = tmp_path / "a.pt"
    checkpoint.write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.bin").write_bytes(b"1")
    for held in (checkpoint, str(checkpoint), tmp_path / "folder"):
        spec = ModelSpec("a", partial(dict, weights=held))  # type: ignore[arg-type]

        def parts(spec: ModelSpec = spec) -> dict[str, str]:
            return entry_code(ZooOrigins(frozenset()), spec, SourceCode()).parts

        before = parts()
        assert parts() == before
        checkpoint.write_bytes(b"2" + checkpoint.read_bytes())
        (tmp_path / "folder" / "weights.bin").write_bytes(checkpoint.read_bytes())
        assert parts() != before


def test_a_class_that_a_function_makes_differs_by_what_it_captures() -> None:
    def make(depth: int) -> type:
        class Net:
            def forward(self) -> int:
                return depth

        return Net

    assert describe(make(1)).text == describe(make(1)).text != describe(make(2)).text


def test_a_module_that_only_a_changed_path_finds_is_unknown(library: Library) -> None:
    library.write(
        {"net.py": "import sys\nsys.path.insert(0, 'elsewhere')\ndef build():\n    import headswap_elsewhere\n"}
    )
    assert "headswap_elsewhere is not found" in library.named("net").unknown
    library.write({"net.py": "import sys\nsys.path.insert(0, 'elsewhere')\nimport json\n"})
    assert not library.named("net").unknown


def test_the_report_of_a_run_is_no_code(tmp_path: Path) -> None:
    script = tmp_path / "zoo.py"
    script.write_text("REPORTS = 'report', 'other', 'results.jsonl'\n")
    written = tmp_path / "report" / "results.jsonl"

    def parts() -> dict[str, str]:
        return follow(SourceCode(written), [script]).parts

    before = parts()
    for folder in ("report", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "lock").touch()
        assert (parts() == before) == (folder == "report")
        (tmp_path / folder / "results.jsonl").touch()
        assert parts() == before


def test_all_files_of_a_library_count_and_what_its_distribution_requires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_headswap.zoo import source_code

    info = tmp_path / f"{TOP}-1.0.dist-info"
    info.mkdir()
    requires = "Requires-Dist: hypothesis>=1\nRequires-Dist: torch; extra == 'all'\n"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {TOP}\nVersion: 1.0\n{requires}")
    library = Library(tmp_path)
    library.write({"models/net.py": "import importlib\nimportlib.import_module(name)", "models/sizes.json": "{}"})
    monkeypatch.syspath_prepend(tmp_path)
    source_code.installed_version.cache_clear()
    spec = ModelSpec("a", dict)  # type: ignore[arg-type]

    def code() -> Code:
        return entry_code(ZooOrigins(frozenset(), TOP), spec, SourceCode())

    before = code()
    assert before.parts.keys() == {"entry", f"{TOP}/", "hypothesis"}
    assert not before.unknown, "a library loads its own modules"
    for name in ("models/net.py", "models/sizes.json", "models/new.py"):
        library.write({name: "changed = 1"})
        assert code().parts != before.parts
        before = code()
