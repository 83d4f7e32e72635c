"""Follow the imports of one model through source files."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from pytest_headswap.zoo.source_code import (
    ABSENT,
    OWN_PACKAGE,
    Code,
    SourceCode,
    environment_digest,
    installed_version,
    required_versions,
)
from pytest_headswap.zoo.source_files import Import, SourceFile, UnknownCodeError, digest, may_load_code


def follow(
    code: SourceCode,
    run: Collection[str | Path] = (),
    named: Collection[str | Path] = (),
    libraries: Collection[str] = (),
    content_only: Collection[str | Path] = (),
    own: Collection[str] = (),
) -> Code:
    """Return the code of some modules and of what they import. The result is remembered.

    Args:
        code: what was read before.
        run: modules and files whose code runs; all that Python imports along with them counts.
        named: modules and files that define a model.
        libraries: packages of which all files count.
        content_only: modules and files whose imports do not count.
        own: packages that count file by file although they are installed.
    """
    key = frozenset(run), frozenset(named), frozenset(libraries), frozenset(content_only), frozenset(own)
    if key in code.followed:
        return code.followed[key]
    tops = {_top(item) for item in (*run, *named) if isinstance(item, str)}
    walk = _Walk(code, frozenset(own) | {top for top in tops if not code.is_installed(top)})
    for library in libraries:
        walk.visit_all(library, is_library=True)
    for item in content_only:
        walk.visit_content(item)
    for items, exact in ((run, False), (named, True)):
        for item in items:
            walk.push(item, exact=exact)
    walk.run()
    code.followed[key] = Code(dict(sorted(walk.parts.items())), walk.unknown, frozenset(walk.files))
    return code.followed[key]


class _Walk:
    """One walk along imports. `exact` modules are those that a zoo names, and what these import."""

    def __init__(self, code: SourceCode, own: frozenset[str]) -> None:
        self.code = code
        self.own = own
        self.parts: dict[str, str] = {}
        self.files: set[Path] = set()
        self.unknown = ""
        self._stack: list[tuple[str | Path, str, bool]] = []
        self._seen: set[tuple[str | Path, str, bool]] = set()
        self._whole: set[str] = set()
        self._surrounded: set[str] = set()

    def push(self, item: str | Path, name: str = "", *, exact: bool) -> None:
        """Visit a module or a file, or a name in a module, later."""
        self._stack.append((item, name, exact))

    def run(self) -> None:
        """Visit everything."""
        while self._stack:
            item = self._stack.pop()
            if item not in self._seen:
                self._seen.add(item)
                try:
                    self._visit(*item)
                except (OSError, UnknownCodeError) as error:
                    self._unknown(str(item[0]), f"cannot be read: {error}")

    def _visit(self, item: str | Path, name: str, exact: bool) -> None:
        if isinstance(item, Path):
            self._visit_file(_path_label(item), item, "", exact=exact)
        else:
            self._visit_module(item, name, exact)

    def visit_content(self, item: str | Path) -> None:
        """Count a module or file without what it imports."""
        if place := (_path_label(item), item) if isinstance(item, Path) else self.code.file_of(item):
            self._count(*place)

    def _visit_module(self, module: str, name: str, exact: bool) -> None:
        top = _top(module)
        if top in sys.stdlib_module_names or top == OWN_PACKAGE:
            return
        spec = self.code.find(top)
        if spec is None:
            self.parts[top] = ABSENT
            return
        if top not in self.own and (self.code.is_installed(top) or spec.submodule_search_locations is not None):
            if self.code.is_installed(top):
                self.parts[top] = installed_version(top)
            else:
                self.visit_all(top)
            return
        spec = self.code.find(module)
        if name and spec is not None and spec.submodule_search_locations is None:
            self.push(module, exact=exact)  # a module counts as a whole
            return
        if spec is None:
            self.parts[f"{module.replace('.', '/')}.py"] = ABSENT
            return
        for package in _packages_around(module):
            if exact:
                self._visit_package_itself(package)
            else:
                self.push(package, exact=False)
        if name and spec.submodule_search_locations is not None:
            self._visit_name(module, name)
        elif spec.origin is None and spec.submodule_search_locations is not None:  # a namespace package
            return
        elif place := self.code.file_of(module):
            self._visit_file(*place, module, exact=exact)
        else:
            self._unknown(module, "has no file")

    def _visit_file(self, label: str, path: Path, module: str, *, exact: bool) -> None:
        """Count a whole file, and what it imports."""
        source = self._count(label, path)
        if source.unknown:
            self._unknown(label, source.unknown)
        if module and (source.loads_own_package or source.unknown):
            self.visit_all(_top(module))
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        if source.changes_path and (
            lost := [name for name in source.imported_packages if not self.code.is_known(name)]
        ):
            self._unknown(label, f"adds places for modules, and {lost[0]} is not found without them")
        for item in source.imports:
            self._follow(item, package, label, exact)

    def _count(self, label: str, path: Path) -> SourceFile:
        source = self.code.source(path)
        self.files.add(path)
        self.parts[label] = source.digest
        self._count_surroundings(label, path, source)
        return source

    def _count_surroundings(self, label: str, path: Path, source: SourceFile) -> None:
        if label in self._surrounded:
            return
        self._surrounded.add(label)
        folder = label.rpartition("/")[0]
        self.parts |= {f"{folder}/{text}".lstrip("/"): found for text, found in self.code.named_files(path).items()}
        self.parts |= {f"${name}": environment_digest(name) for name in source.environment}
        if self.code.is_package(path.parent) and (data := self.code.data(path.parent)):
            self.parts[f"{folder}/*".lstrip("/")] = data

    def _visit_package_itself(self, package: str) -> None:
        """Count what a package does besides importing its modules."""
        if place := self.code.file_of(package):
            label, path = place
            source = self.code.source(path)
            self.files.add(path)
            self.parts.setdefault(label, source.own_digest)
            self._count_surroundings(label, path, source)

    def _visit_name(self, package: str, name: str) -> None:
        """Follow a name that is imported from a package: to the module that passes it on, or to the package itself."""
        place = self.code.file_of(package)
        if place is None:  # a namespace package
            self.push(f"{package}.{name}", exact=True)
            return
        label, path = place
        source = self.code.source(path)
        self._visit_package_itself(package)
        bound = [item for item in source.top_level if item.bound == name]
        stars = list(self._stars_with(name, package, source))
        for item in bound:
            if item.name != name or _absolute(item.module, package) != package:  # not `from . import name`
                self._follow(item, package, label, exact=True)
        for module in stars:
            self.push(module, name, exact=True)
        if self.code.find(f"{package}.{name}") is not None:
            self.push(f"{package}.{name}", exact=True)
        elif name in source.defined or not (bound or stars):
            self.push(package, exact=True)

    def _stars_with(self, name: str, package: str, source: SourceFile) -> Iterator[str]:
        """Yield the modules of which a package passes on all names, among them this one."""
        for item in source.top_level:
            module = _absolute(item.module, package) if item.name == "*" else ""
            if module and (place := self.code.file_of(module)):
                inner = self.code.source(place[1])
                names = inner.defined | {other.bound for other in inner.top_level}
                if name in names or "*" in names:
                    yield module

    def _follow(self, item: Import, package: str, label: str, exact: bool) -> None:
        """Visit what a file in a package imports."""
        module = _absolute(item.module, package)
        if not module:
            self._unknown(label, f"imports {item.module}{item.name}, which is outside its package")
        elif not item.name:
            self.push(module, exact=exact)
            if item.bound == _top(module) != module:
                self.push(item.bound, exact=exact)
        elif exact and item.name != "*":
            self.push(module, item.name, exact=True)
        else:
            self.push(module, exact=exact)
            if item.name != "*" and _top(module) in self.own and self.code.find(f"{module}.{item.name}") is not None:
                self.push(f"{module}.{item.name}", exact=exact)

    def visit_all(self, top: str, *, is_library: bool = False) -> None:
        """Count all files of a package, and the packages that they import.

        A library may load its own modules by computed names, so that all of them count. Of other code, this is unknown.
        """
        if top in self._whole:
            return
        self._whole.add(top)
        contents: list[bytes] = []
        files = self.code.all_files(top)
        required = required_versions(top) if is_library else None
        self.parts |= required or {}
        for path in files:
            content = path.read_bytes()
            self.files.add(path)
            contents += [os.fsencode(os.path.relpath(path, files[0].parent)), content]
            if path.suffix == ".py" and required is None:
                for name in self.code.imported_packages(path, content) - {top}:
                    self.push(name, exact=False)
            if is_library or (path.suffix == ".py" and not may_load_code(content)):
                continue
            if why := self.code.source(path).unknown:
                self._unknown(str(path), why)
        for folder in sorted({path.parent for path in files if path.name == "__init__.py"}):
            contents.append(self.code.data(folder).encode())
        self.parts[f"{top}/"] = digest(*contents) if contents else ABSENT

    def _unknown(self, what: str, why: str) -> None:
        if not self.unknown:
            self.unknown = f"{what} {why}"


def _top(module: str) -> str:
    return module.partition(".")[0]


def _packages_around(module: str) -> Iterator[str]:
    while module := module.rpartition(".")[0]:
        yield module


def _path_label(path: Path) -> str:
    relative = os.path.relpath(path)
    return path.name if relative.startswith("..") else relative.replace(os.sep, "/")


def _absolute(module: str, package: str) -> str:
    """Return the absolute name of a module that a file of `package` imports; empty if it is outside the package."""
    name = module.lstrip(".")
    if not (level := len(module) - len(name)):
        return module
    parts = package.split(".") if package else []
    if level > len(parts):
        return ""
    return ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])
