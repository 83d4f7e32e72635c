"""Read source files without importing them: their digests, imports, and what else they rest on."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_DYNAMIC = re.compile(
    rb"import_module|__import__|\bexec\b|run_path|run_module|spec_from_|entry_points|SourceFileLoader|\bhub\b"
)
_ENVIRONMENT = re.compile(rb"environ|getenv")
_QUOTED = re.compile(rb"""(?=["']([^"'\n\\{}]{1,200})["'])""")  # any text between two quotes, also the wrong two
_NAME = re.compile(r"[A-Za-z_]\w+")
_MAX_FILES, _MAX_BYTES = 5_000, 512 * 2**20  # of the data files in one folder

_IMPORTERS = {"import_module", "__import__"}
_LOADERS = {"exec", "run_path", "run_module", "spec_from_file_location", "SourceFileLoader", "entry_points"}


class UnknownCodeError(Exception):
    """The code that something rests on cannot be known; the message says why."""


@dataclass(frozen=True)
class Import:
    """One imported name: `from module import name`, with leading dots in `module`.

    Attributes:
        module: the module as written.
        name: the imported name; `*` for all; empty if the module itself is imported.
        bound: the name that the file gives to it.
    """

    module: str
    name: str
    bound: str


@dataclass(frozen=True)
class SourceFile:
    """What a source file says about the code that it rests on.

    Attributes:
        digest: of the whole file.
        own_digest: of the file without its imports, which say only which names it passes on, and without `__all__`.
        imports: everything that it imports anywhere, also inside functions.
        top_level: the imports outside functions and classes.
        defined: the names that it defines itself at its top level.
        environment: the names of environment variables that it reads.
        quoted: its short texts, which may name files.
        unknown: why the code that it loads cannot be known; empty if it can.
        loads_own_package: whether it imports modules of its own package by computed names.
        changes_path: whether it mentions `sys.path`, so that modules may be elsewhere once it runs.
    """

    digest: str
    own_digest: str = ""
    imports: tuple[Import, ...] = ()
    top_level: tuple[Import, ...] = ()
    defined: frozenset[str] = frozenset()
    environment: frozenset[str] = frozenset()
    quoted: frozenset[str] = frozenset()
    unknown: str = ""
    loads_own_package: bool = False
    changes_path: bool = False

    @property
    def imported_packages(self) -> set[str]:
        """Return the top-level names of its absolute imports."""
        return {item.module.partition(".")[0] for item in self.imports if not item.module.startswith(".")}


def digest(*contents: bytes) -> str:
    """Return a digest of some contents, each of which counts as a whole."""
    hashed = hashlib.sha256()
    for content in contents:
        hashed.update(b"%d:" % len(content))
        hashed.update(content)
    return hashed.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return a digest of a file of any size, such as a checkpoint."""
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            hashed.update(block)
    return hashed.hexdigest()[:16]


def may_load_code(content: bytes) -> bool:
    """Return whether a file has a word of functions that load code by computed names, so that it is worth parsing."""
    return _DYNAMIC.search(content) is not None


def read_source(path: Path) -> SourceFile:
    """Read a Python file. What is not Python source, such as a C extension, counts by its content."""
    content = path.read_bytes()
    whole = digest(content)
    if path.suffix not in (".py", ".pyi"):
        return SourceFile(whole, whole, unknown="is compiled, so its imports are not known")
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return SourceFile(whole, whole, unknown="cannot be parsed")
    top_level = list(_statements(tree.body, functions=False))
    everywhere = list(_statements(tree.body, functions=True))
    unknown, loads_own_package, named = _dynamic_imports(tree) if may_load_code(content) else ("", False, [])
    return SourceFile(
        whole,
        _digest_without_imports(content, top_level) or whole,
        (*_imports(everywhere), *named),
        tuple(_imports(top_level)),
        frozenset(_defined(top_level)),
        frozenset(_environment(tree)) if _ENVIRONMENT.search(content) else frozenset(),
        frozenset(text.decode("utf-8", "replace") for text in _QUOTED.findall(content)),
        unknown,
        loads_own_package,
        b"sys.path" in content or b"__path__" in content,
    )


def data_digest(folder: Path) -> str:
    """Return a digest of the files of a package that are not Python source, including those in plain subfolders.

    Raises:
        UnknownCodeError: they are too large to read in every run.
    """
    contents: list[bytes] = []
    size = 0
    for path in _data_files(folder):
        size += path.stat().st_size
        if size > _MAX_BYTES or len(contents) > 2 * _MAX_FILES:
            raise UnknownCodeError(f"{folder} holds too many files to compare")
        contents += [path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape"), path.read_bytes()]
    return digest(*contents) if contents else ""


def _data_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__" or path.suffix in (".py", ".pyc", ".pyi"):
            continue
        if path.is_dir():
            if not (path / "__init__.py").exists():
                yield from _data_files(path)
        elif path.is_file():
            yield path


def _statements(body: Iterable[ast.stmt], *, functions: bool) -> Iterator[ast.stmt]:
    """Yield statements with those inside blocks and, on request, inside functions and classes."""
    for statement in body:
        yield statement
        if not functions and isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, part, ()), functions=functions)
        for block in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            yield from _statements(block.body, functions=functions)


def _imports(statements: Iterable[ast.stmt]) -> Iterator[Import]:
    for statement in statements:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield Import(alias.name, "", alias.asname or alias.name.partition(".")[0])
        elif isinstance(statement, ast.ImportFrom):
            module = "." * statement.level + (statement.module or "")
            for alias in statement.names:
                yield Import(module, alias.name, alias.asname or alias.name)


def _defined(statements: Iterable[ast.stmt]) -> Iterator[str]:
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement.name
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _digest_without_imports(content: bytes, statements: Iterable[ast.stmt]) -> str:
    """Return the digest of a file without its imports and `__all__`; empty if their places are not known."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return ""
    lines = content.splitlines()
    for statement in statements:
        is_list = isinstance(statement, (ast.Assign, ast.AugAssign)) and list(_defined([statement])) == ["__all__"]
        if is_list or isinstance(statement, (ast.Import, ast.ImportFrom)):
            first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
            rest = lines[last][statement.end_col_offset :]  # after a semicolon
            lines[first : last + 1] = [lines[first][: statement.col_offset] + rest, *[b""] * (last - first)]
    return digest(*(line for line in lines if line.strip()))


def _environment(tree: ast.AST) -> Iterator[str]:
    """Yield the texts by which the environment is read: `environ["X"]`, `environ.get("X")`, `getenv("X")`, `"X" in`."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Call, ast.Subscript, ast.Compare)):
            parts: list[ast.AST] = [node.func, *node.args] if isinstance(node, ast.Call) else list(ast.walk(node))
            names = {getattr(part, "attr", getattr(part, "id", "")) for item in parts for part in ast.walk(item)}
            if names & {"environ", "getenv", "environb"}:
                yield from (
                    part.value
                    for item in parts
                    for part in ast.walk(item)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str) and _NAME.fullmatch(part.value)
                )


def _dynamic_imports(tree: ast.AST) -> tuple[str, bool, list[Import]]:
    """Return why the loaded code is unknown, whether modules of the own package are loaded, and named modules."""
    unknown, own, named = "", False, []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in _IMPORTERS and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                named.append(Import(first.value, "", ""))
            elif _names_own_package(first):
                own = True
            else:
                unknown = "imports a module by a computed name"
        elif name in _LOADERS:
            unknown = f"loads code with {name}"
        elif name == "load" and "hub" in ast.dump(node.func):
            unknown = "loads code with torch.hub"
    return unknown, own, named


def _names_own_package(node: ast.expr) -> bool:
    """Return whether a computed name starts with a dot, `__name__` or `__package__`."""
    while isinstance(node, (ast.BinOp, ast.JoinedStr)):
        node = node.left if isinstance(node, ast.BinOp) else node.values[0]
    if isinstance(node, ast.FormattedValue):
        node = node.value
    if isinstance(node, ast.Constant):
        return str(node.value).startswith(".")
    return isinstance(node, ast.Name) and node.id in ("__name__", "__package__")
