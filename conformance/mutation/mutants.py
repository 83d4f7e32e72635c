"""Make realistic mutants of Python modules: the mistakes that a programmer makes, one at a time.

`candidates` lists every mutant of a module, `sample` picks some of them, and `Mutant.code` compiles one. The lines of
the code stay the same. Texts of messages, annotations, `assert`, `__repr__` and imports for type checkers are left out.
"""

from __future__ import annotations

import ast
import builtins
import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from types import CodeType
from typing import Any

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
FUNCTIONS = {"any": "all", "all": "any", "min": "max", "max": "min"}
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


Made = Iterator[tuple[str, ast.AST]]


@singledispatch
def replacements(node: ast.AST) -> Made:
    """Yield the mutants of one node: the name of the mistake, and the node in its place."""
    yield from ()


@replacements.register(ast.If)
@replacements.register(ast.While)
@replacements.register(ast.IfExp)
def _condition(node: ast.If | ast.While | ast.IfExp) -> Made:
    if isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not):
        yield "condition", _changed(node, test=node.test.operand)
    elif not isinstance(node.test, ast.Compare | ast.BoolOp):  # these have mutants of their own
        yield "condition", _changed(node, test=ast.UnaryOp(ast.Not(), node.test))


@replacements.register
def _filter(node: ast.comprehension) -> Made:
    for index in range(len(node.ifs)):
        yield "filter", _changed(node, ifs=node.ifs[:index] + node.ifs[index + 1 :])


@replacements.register
def _comparison(node: ast.Compare) -> Made:
    yield "comparison", _changed(node, ops=[COMPARISONS[type(node.ops[0])](), *node.ops[1:]])


@replacements.register
def _and_or(node: ast.BoolOp) -> Made:
    yield "and/or", _changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    for index in range(len(node.values)):
        rest = node.values[:index] + node.values[index + 1 :]
        yield "operand", rest[0] if len(rest) == 1 else _changed(node, values=rest)


@replacements.register
def _not(node: ast.UnaryOp) -> Made:
    if isinstance(node.op, ast.Not):
        yield "not", node.operand


@replacements.register
def _arithmetic(node: ast.BinOp) -> Made:
    texts = (ast.JoinedStr, str)
    is_text = any(isinstance(getattr(side, "value", side), texts) for side in (node.left, node.right))
    if type(node.op) in ARITHMETIC and not is_text:
        yield "arithmetic", _changed(node, op=ARITHMETIC[type(node.op)]())


@replacements.register
def _first_or_last(node: ast.Subscript) -> Made:
    other = {"0": "-1", "-1": "0"}.get(ast.unparse(node.slice))
    if other:
        yield "first/last", _changed(node, slice=ast.parse(other, mode="eval").body)


@replacements.register
def _constant(node: ast.Constant) -> Made:
    if isinstance(node.value, bool):
        yield "constant", ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield "constant", ast.Constant(node.value + 1)


@replacements.register
def _call(node: ast.Call) -> Made:
    builtin = isinstance(node.func, ast.Name) and hasattr(builtins, node.func.id)  # swapped, they raise at once
    if isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        yield "any/all", _changed(node, func=ast.Name(FUNCTIONS[node.func.id], ast.Load()))
    first, second = (*node.args[:2], None, None)[:2]
    if first and not builtin and type(first) is type(second) and not isinstance(first, ast.Starred):
        yield "arguments", _changed(node, args=[second, first, *node.args[2:]])


@replacements.register
def _return(node: ast.Return) -> Made:
    if node.value is not None and ast.unparse(node.value) != "None":
        yield "return", _changed(node, value=ast.Constant(None))


@replacements.register(ast.Break)
@replacements.register(ast.Continue)
def _jump(node: ast.Break | ast.Continue) -> Made:
    yield "continue/break", ast.Continue() if isinstance(node, ast.Break) else ast.Break()


@replacements.register(ast.Raise)
@replacements.register(ast.AugAssign)
@replacements.register(ast.Delete)
@replacements.register(ast.Assign)
@replacements.register(ast.Expr)
def _removed(node: ast.Raise | ast.AugAssign | ast.Delete | ast.Assign | ast.Expr) -> Made:
    if isinstance(node, ast.Assign):
        has_effect = isinstance(node.targets[0], ast.Attribute | ast.Subscript)  # a name would only be missing
    else:
        has_effect = not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call)
    if has_effect:
        yield "removed", ast.Pass()


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


@dataclass(frozen=True)
class Mutant:
    """One mutant of a module.

    Attributes:
        key: identifies the mutant; independent of lines, so that it stays the same when other functions change.
        file: path of the module, relative to the root of the checkout.
        line: number of the line.
        kind: the mistake.
        change: the code before and after.
        in_function: whether the code runs when a function is called, not when the module is imported.
        path: fields and indices that lead from the module to the node.
        choice: index among the `replacements` of the node.
    """

    key: str
    file: str
    line: int
    kind: str
    change: str
    in_function: bool
    path: tuple[str | int, ...]
    choice: int

    @property
    def module(self) -> str:
        """The name of the module to import."""
        return self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def code(self, root: Path) -> CodeType:
        """Compile the module with the mistake."""
        tree = ast.parse((root / self.file).read_bytes())
        holder: Any = tree
        for step in self.path[:-1]:
            holder = _step(holder, step)
        old: ast.AST = _step(holder, self.path[-1])
        new = list(replacements(old))[self.choice][1]
        _locate(new, old)
        if isinstance(holder, list):
            holder[int(self.path[-1])] = new
        else:
            setattr(holder, str(self.path[-1]), new)
        return compile(tree, str(root / self.file), "exec", dont_inherit=True)


def _step(holder: Any, step: str | int) -> Any:
    return getattr(holder, step) if isinstance(step, str) else holder[step]


def _locate(new: ast.AST, old: ast.AST) -> None:
    """Give the place of the old node to the nodes that have none."""
    if "lineno" in old._attributes:
        for node in ast.walk(new):
            if "lineno" in node._attributes and not hasattr(node, "lineno"):
                ast.copy_location(node, old)
    ast.fix_missing_locations(new)


def candidates(root: Path, file: str) -> list[Mutant]:
    """Return every mutant of a module."""
    found: list[Mutant] = []
    seen: dict[str, int] = {}
    tree = ast.parse((root / file).read_bytes())
    for path, node, scopes in _nodes(tree, (), ()):
        for choice, (kind, new) in enumerate(replacements(node)):
            before, after = _shown(node), _shown(new)
            if before == after:
                continue
            text = "|".join([file, *scopes, kind, before, after])
            seen[text] = seen.get(text, 0) + 1
            key = hashlib.sha256(f"{text}|{seen[text]}".encode()).hexdigest()[:10]
            change = f"{before} -> {after}"
            line = getattr(node, "lineno", 0) or node.target.lineno  # type: ignore[attr-defined]
            found.append(Mutant(key, file, line, kind, change, bool(scopes), path, choice))
    return found


def _shown(node: ast.AST) -> str:
    """Return the code of a node in one line; of a block, its head."""
    if isinstance(node, BLOCKS):
        node = _changed(node, body=[ast.Expr(ast.Constant(...))], orelse=[])
    return " ".join(ast.unparse(node).split())


def _nodes(
    node: ast.AST, path: tuple[str | int, ...], scopes: tuple[str, ...]
) -> Iterator[tuple[tuple[str | int, ...], ast.AST, tuple[str, ...]]]:
    yield path, node, scopes
    if isinstance(node, (*FUNCTION, ast.Lambda)):
        scopes = (*scopes, getattr(node, "name", "lambda"))
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "exc", "cause", "type_params"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            if isinstance(child, ast.AST) and not _left_out(child):
                step = (field,) if index is None else (field, index)
                yield from _nodes(child, (*path, *step), scopes)


def _left_out(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    if isinstance(node, FUNCTION):
        return node.name in ("__repr__", "__str__")
    return isinstance(node, ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom)


def sample(root: Path, folders: Sequence[str], count: int, seed: int = 0) -> list[Mutant]:
    """Pick about `count` mutants: from each module in proportion to its size, and at least two."""
    files = sorted(str(path.relative_to(root)) for folder in folders for path in (root / folder).rglob("*.py"))
    modules = [found for file in files if (found := candidates(root, file))]
    total = sum(map(len, modules))
    picked: list[Mutant] = []
    for module in modules:
        share = max(2, round(count * len(module) / total))
        picked += sorted(module, key=lambda mutant: hashlib.sha256(f"{seed}{mutant.key}".encode()).digest())[:share]
    return picked


def marked(root: Path, file: str, marks: Sequence[tuple[int, Mutant]], module_mark: int) -> CodeType:
    """Compile a module that marks the statements of these mutants, and every call, in `mutation_hits`."""
    tree = ast.parse((root / file).read_bytes())
    inserted: list[tuple[list[Any], ast.AST, int]] = []
    for mark, mutant in marks:
        holder: Any = tree
        statements = []
        for step in mutant.path:
            block, holder = holder, _step(holder, step)
            if isinstance(holder, ast.stmt) and isinstance(block, list):
                statements.append((block, holder, mark))
        if mutant.in_function:
            inserted += statements[-1:]
    functions = (node for node in ast.walk(tree) if isinstance(node, FUNCTION))
    inserted += [(node.body, node.body[-1], module_mark) for node in functions]
    for block, statement, mark in inserted:
        hit = ast.parse(f"mutation_hits[{mark}] = 1").body[0]
        for part in ast.walk(hit):
            ast.copy_location(part, statement)
        block.insert(next(index for index, item in enumerate(block) if item is statement), hit)
    return compile(tree, str(root / file), "exec", dont_inherit=True)
