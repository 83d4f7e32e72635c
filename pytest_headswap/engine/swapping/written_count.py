"""Find the lines of the model's code that have the old class count written in them."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import nn

from pytest_headswap.engine.abstract.meta_cache import Execute
from pytest_headswap.engine.abstract.reachable_code import is_foreign
from pytest_headswap.engine.abstract.run import abstract_run
from pytest_headswap.engine.abstract.stand_ins import TENSOR_KINDS, StandIns
from pytest_headswap.engine.detection.scalar_counts import has_scalar
from pytest_headswap.engine.errors import HeadSwapError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.engine.pytorch.internals import DispatchMode, is_pointwise
from pytest_headswap.engine.pytorch.source_lines import PACKAGE, line_of
from pytest_headswap.engine.swapping.plan import SwapPlan


class _ConstantFinder(DispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Remember the last line of the model's code that passes one of these numbers to an operation."""

    def __init__(self, numbers: set[int], execute: Execute) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self._numbers = numbers
        self._execute = execute
        self.line = ""
        self.layer = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(self._has_number(value) for value in args):
            line, layer = _place_of_frame(sys._getframe(1))
            if line:
                self.line, self.layer = line, layer
        return self._execute(func, args, kwargs or {})

    def _has_number(self, value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            is_stack = len(value) in self._numbers and all(isinstance(item, torch.Tensor) for item in value)
            return is_stack or any(type(item) is int and item in self._numbers for item in value)
        return type(value) is int and value in self._numbers


def line_with_count(
    model: nn.Module, inputs: Inputs, training: bool, tensor_kinds: Sequence[str], old: set[int]
) -> tuple[str, str]:
    """Return the last line of the model's code that passes an old class count to an operation, or "".

    The line is given as `file:line: code`, with the class of the torch layer it calls if that passes the number. Call
    this after the swap, so that sizes of tensors are new.
    """
    finders: list[_ConstantFinder] = []

    @contextmanager
    def recorder(_: StandIns, __: Sequence[tuple[str, nn.Module]], execute: Execute) -> Iterator[None]:
        finders.append(_ConstantFinder(old, execute))
        with finders[-1]:
            yield

    with suppress(HeadSwapError), torch.no_grad():
        abstract_run(model, inputs, training=training, tensor_kinds=tensor_kinds, recorder=recorder)
    return finders[0].line, finders[0].layer


def lines_with_literal(model: nn.Module, numbers: Collection[int]) -> list[str]:
    """Return the lines of the model's methods, and of functions that they name, that contain one of these numbers.

    A global variable with that value counts as well. `__init__` does not: it creates the old head.
    """
    kinds = dict.fromkeys(kind for module in model.modules() for kind in type(module).__mro__ if not is_foreign(kind))
    stack = [value for kind in kinds for name, value in vars(kind).items() if name != "__init__"]
    stack += [value for module in model.modules() for value in vars(module).values()]
    lines: dict[str, None] = {}
    seen = set()
    while stack:
        function = inspect.unwrap(value) if isinstance(value := stack.pop(), FunctionType) else None
        if function is None or function in seen or is_foreign(function):
            continue
        seen.add(function)
        with suppress(OSError, SyntaxError):  # code without a source file, or a lambda inside an expression
            source, start = inspect.getsourcelines(function)
            node: Any
            for node in ast.walk(ast.parse(textwrap.dedent("".join(source)))):
                value = function.__globals__.get(node.id) if isinstance(node, ast.Name) else getattr(node, "value", 0)
                stack.append(value)
                if type(value) is int and value in numbers:
                    lines[line_of(function.__code__.co_filename, start + node.lineno - 1)] = None
    return sorted(filter(None, lines))


class _ScalarFinder(DispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Remember the last line of the model's code that computes with one of these numbers."""

    def __init__(self, numbers: Collection[int], execute: Execute) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self._numbers = numbers
        self._execute = execute
        self.line = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_pointwise(func) and any(has_scalar(args, number) for number in self._numbers):
            self.line = _place_of_frame(sys._getframe(1))[0] or self.line
        return self._execute(func, args, kwargs or {})


def line_with_scalar(plan: SwapPlan, old: Collection[int]) -> str:
    """Return the last line of the model's code that computes with an old class count, or "". Call it after the swap."""
    lines: list[str] = []

    @contextmanager
    def recorder(_: StandIns, __: Sequence[tuple[str, nn.Module]], execute: Execute) -> Iterator[None]:
        with _ScalarFinder(old, execute) as finder:
            yield
        lines.append(finder.line)

    for training, tensor_kind in plan.search_result.tensor_kinds.items():
        kinds = TENSOR_KINDS[TENSOR_KINDS.index(tensor_kind) :]
        with suppress(HeadSwapError), torch.no_grad():
            abstract_run(plan.model, plan.inputs, training=training, tensor_kinds=kinds, recorder=recorder)
    return next(filter(None, lines), "")


def _place_of_frame(frame: FrameType | None) -> tuple[str, str]:
    """Return the innermost line of the model's code, and the class of the torch layer that it calls, if any."""
    layer = ""
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):  # where the run began
        line = line_of(frame.f_code.co_filename, frame.f_lineno)
        if line:
            return line, layer
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner._parameters:
            layer = type(owner).__name__
        frame = frame.f_back
    return "", ""
