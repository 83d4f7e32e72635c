"""The child process that runs models. A fork of pytest has torch, zoos, hooks and settings; a spawned one loads them.

The child handles one request at a time and replies with plain data. It never returns into pytest's frames.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NoReturn

from pytest_headswap.harness.garbage import trim_heap
from pytest_headswap.harness.memory_budget import rss_bytes
from pytest_headswap.isolation.executor import BuildReply, CheckReply
from pytest_headswap.isolation.in_process_executor import InProcessExecutor
from pytest_headswap.isolation.inherited_file import InheritedFile
from pytest_headswap.isolation.interrupts import end_with_parent
from pytest_headswap.isolation.process_tree import MARK
from pytest_headswap.isolation.remote_exception import RemoteException, truncate

STACK_SIGNAL = signal.SIGUSR1 if sys.platform != "win32" else 0
_PR_SET_CHILD_SUBREAPER = 36
_MAX_WARNINGS = 100  # per request


@dataclass(frozen=True)
class Request:
    """A request to the child process; `name` is the model to build or the check to run."""

    operation: Literal["self_test", "build", "check", "release"]
    zoo: str = ""
    name: str = ""


@dataclass(frozen=True)
class RecordedWarning:
    """A warning for the parent process to issue again."""

    message: str
    category: type[Warning]
    filename: str
    line: int


@dataclass(frozen=True)
class Reply:
    """The reply to a request.

    Attributes:
        value: what the executor returned, without the exception of a finding, which is in `exception`.
        exception: the exception raised, or that of the finding.
        warnings: the warnings issued during the request.
        global_changes: global state that the model changed, which would affect later models in this process.
        imported_modules: modules of torch imported during the request, in the order in which their import ended.
        rss: bytes of memory that this process holds now.
    """

    value: BuildReply | CheckReply | None
    exception: RemoteException | None
    warnings: tuple[RecordedWarning, ...]
    global_changes: tuple[str, ...]
    imported_modules: tuple[str, ...]
    rss: int


_GC_THRESHOLD = 100_000
"""New objects between garbage collections: with 10,000 the gc takes a twelfth of the time, and with 100,000 a 30th."""


def child_main(
    make_executor: Callable[[], InProcessExecutor],
    requests: Connection,
    outputs: Sequence[InheritedFile],
    stack: InheritedFile,
) -> NoReturn:
    """Run the child process to its end."""
    try:
        _detach_from_pytest(outputs, stack)
        try:
            executor = make_executor()
        except BaseException as error:  # noqa: BLE001 - a conftest may raise anything, SystemExit too
            requests.recv()
            requests.send(Reply(None, RemoteException.capture(error), (), (), (), rss_bytes()))
            os._exit(0)
        _prepare_for_models()
        _serve_requests(executor, requests)
    except EOFError:
        os._exit(0)
    except BaseException:  # noqa: BLE001 - nothing may return into pytest's frames
        with suppress(BaseException):
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
    finally:
        os._exit(70)


def _detach_from_pytest(outputs: Sequence[InheritedFile], stack: InheritedFile) -> None:
    """Separate the process from pytest: give it its own files and signals, and have it end with pytest."""
    os.environ[MARK] = str(os.getpid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform != "win32":
        os.setpgid(0, 0)  # Ctrl-C is for pytest; killing the group also kills the processes of a model
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end_with_parent()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what loses its parent process stays in the tree
        with suppress(OSError):  # if memory runs out, the kernel should kill this process first
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    descriptors = [file.descriptor for file in outputs]
    for place, file in enumerate((os.open(os.devnull, os.O_RDONLY), *descriptors)):
        os.dup2(file, place)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", 1, "utf-8", "backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    faulthandler.enable(stack.descriptor)
    if sys.platform != "win32":
        faulthandler.register(STACK_SIGNAL, stack.descriptor)


def _prepare_for_models() -> None:
    """Undo what pytest set up for its own process, and prepare to measure memory."""
    import torch

    for handler in list(logging.root.handlers):  # pytest's handlers would collect records that nobody reads
        if type(handler).__module__.startswith("_pytest."):
            logging.root.removeHandler(handler)
    os.environ.pop("PYTEST_CURRENT_TEST", None)
    torch.set_num_threads(1)  # a fork has no OpenMP threads, and OpenMP would wait for them
    gc.freeze()  # existing objects are never garbage, and scanning them would copy their memory pages
    gc.set_threshold(_GC_THRESHOLD, *gc.get_threshold()[1:])
    trim_heap()  # as after each model, so that the memory a model leaves behind can be measured


def _serve_requests(executor: InProcessExecutor, requests: Connection) -> None:
    from pytest_headswap.isolation.global_state import GlobalState

    own, streams = os.getpid(), (sys.stdout, sys.stderr)
    globals_before, modules = GlobalState(), set(sys.modules)
    while True:
        request: Request = requests.recv()

        def answer(request: Request = request) -> BuildReply | CheckReply | None:
            match request.operation:
                case "build":
                    return executor.build(executor.zoos[request.zoo], request.name)
                case "check":
                    return executor.check(executor.checks[request.name])
                case "release":
                    executor.release()
                case "self_test":
                    _self_test(executor.options.device)
            return None

        if request.operation == "build":
            globals_before = GlobalState()
        with record_warnings() as recorded:
            value, exception = call_and_record(answer, executor.format_failure)
        if os.getpid() != own:
            os._exit(0)  # a model forked, and its child returned here
        changes = globals_before.changes()
        if request.operation == "release":
            globals_before.restore()
        sys.stdout, sys.stderr = streams
        for stream in streams:
            with suppress(OSError, ValueError):  # a model may have closed it
                stream.flush()
        imported = tuple(name for name in sys.modules if name.startswith("torch.") and name not in modules)
        modules.update(imported)
        requests.send(Reply(value, exception, tuple(recorded), changes, imported, rss_bytes()))


def call_and_record(
    function: Callable[[], Any], format_failure: Callable[[BaseException], str]
) -> tuple[Any, RemoteException | None]:
    """Return what a method of an executor returns, and the exception that it raised or that its finding has."""
    try:
        value = function()
    except BaseException as error:  # noqa: BLE001 - a model that calls sys.exit is a model with an error
        return None, RemoteException.capture(error, format_failure)
    if isinstance(value, CheckReply) and value.finding.exception is not None:
        finding = replace(value.finding, exception=None, message=truncate(value.finding.message))
        return replace(value, finding=finding), RemoteException.capture(value.finding.exception, format_failure)
    return value, None


def _self_test(device: str) -> None:
    """Swap and check a small model. Raises or hangs if this process, a fork, cannot compute.

    Raises:
        RuntimeError: there is an accelerator, but this process cannot use it.
    """
    import torch
    from torch import nn

    from pytest_headswap.case.build import build_case
    from pytest_headswap.case.options import CaseOptions
    from pytest_headswap.checks import run_check
    from pytest_headswap.engine.pytorch import accelerators
    from pytest_headswap.zoo import ModelSpec

    spec = ModelSpec("self_test", lambda: nn.Linear(2, 2), lambda _: torch.zeros(2, 2))
    case = build_case("headswap", spec, CaseOptions(3, device=device))
    for check in ("output_shape", "gradient_flow"):
        if (error := run_check(check, case).exception) is not None:
            raise error
    if kind := accelerators.unusable_type():
        raise RuntimeError(f"{kind} was initialized before the process was forked")


@contextmanager
def record_warnings() -> Iterator[list[RecordedWarning]]:
    """Record up to `_MAX_WARNINGS` warnings of a block instead of printing them."""
    recorded: list[RecordedWarning] = []

    def record(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,  # noqa: ARG001
        line: str | None = None,  # noqa: ARG001
    ) -> None:
        if len(recorded) < _MAX_WARNINGS:
            known = category if category.__module__.partition(".")[0] in _SHARED_PACKAGES else UserWarning
            recorded.append(RecordedWarning(truncate(str(message)), known, filename, lineno))

    with warnings.catch_warnings():
        warnings.showwarning = record
        yield recorded


_SHARED_PACKAGES = {"builtins", "torch", "pytest_headswap"}  # packages whose warning categories the parent knows
