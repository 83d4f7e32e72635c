"""Quote the lines of a model's code for messages."""

from __future__ import annotations

import linecache
import os
from pathlib import Path
from types import TracebackType

import torch
from torch import nn

from pytest_headswap.engine.pytorch.modules import named_modules

_TORCH = str(Path(torch.__file__).parent) + os.sep
PACKAGE = str(Path(__file__).parents[2]) + os.sep
"""Start of the file names of this package."""


def place_of_error(error: BaseException, model: nn.Module) -> tuple[str, str]:
    """Return the last line of the model's own code that an exception passed, and the module of torch it came from.

    Either is "" if there is none. Code of a library that the model uses counts as its own.
    """
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    names = {id(module): path for path, module in named_modules(model)}
    line, layer, traceback = "", "", cause.__traceback__
    while isinstance(traceback, TracebackType):
        code, owner = traceback.tb_frame.f_code, traceback.tb_frame.f_locals.get("self")
        if id(owner) in names:
            layer = f"{names[id(owner)] or 'the model'} ({type(owner).__name__})"
        line = line_of(code.co_filename, traceback.tb_lineno) or line
        traceback = traceback.tb_next
    return line, layer


def line_of(file: str, number: int) -> str:
    """Return a line as `file:line: code`; "" for code of torch and of this package."""
    if file.startswith((_TORCH, PACKAGE)):
        return ""
    code = linecache.getline(file, number).strip()
    return f"{Path(file).name}:{number}: {code}" if code else ""
