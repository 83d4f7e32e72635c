"""Ask about the devices of this machine without starting their runtime in this process."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from pytest_headswap._devices import is_real
from pytest_headswap._text import single_line
from pytest_headswap.case.options import AUTO

_SECONDS = 60.0  # for a runtime to start


def describe_devices(text: str) -> list[str]:
    """Return the devices that an option names, such as `cuda:0 (NVIDIA H200)`. Their runtime does not start here."""
    if not is_real(text):
        return []
    from pytest_headswap.engine.pytorch import accelerators

    kind = accelerators.current_type() if text == AUTO else text.partition(":")[0]
    found, _ = ask_elsewhere(kind, partial(_describe, text)) if kind else ([], "")
    return [kind if text == AUTO else text] if found is None else found


def _describe(text: str) -> list[str]:
    from pytest_headswap.engine.pytorch import accelerators

    described = []
    for device in accelerators.devices(text):
        name = ""
        with suppress(Exception):  # a device may have no name, or be out of order
            name = accelerators.name(device)
        described.append(f"{device} ({name})" if name else str(device))
    return described


def ask_elsewhere(kind: str, ask: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result of a function that may start the runtime of a type of device, or None and why there is none.

    A process with a runtime can neither be forked nor let another one have the device. The function therefore runs in
    a short-lived fork of this process, unless the runtime is up or the system cannot fork.
    """
    from pytest_headswap.engine.pytorch import accelerators

    if kind in accelerators.started() or not hasattr(os, "fork") or sys.platform == "darwin":
        return _answer(ask)
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_send_answer, args=(there, ask), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads; the fork needs none
        process.start()
    there.close()
    try:
        if not here.poll(_SECONDS):
            return None, f"no answer within {_SECONDS:g} s"
        result: tuple[Any, str] = here.recv()
    except EOFError:
        process.join()
        return None, f"the process that asked ended with exit code {process.exitcode}"
    else:
        return result
    finally:
        here.close()
        process.kill()
        process.join()


def _send_answer(pipe: Connection, ask: Callable[[], Any]) -> None:
    pipe.send(_answer(ask))


def _answer(ask: Callable[[], Any]) -> tuple[Any, str]:
    try:
        return ask(), ""
    except Exception as error:  # noqa: BLE001 - a driver may raise anything
        return None, f"{type(error).__name__}: {single_line(str(error))}"
