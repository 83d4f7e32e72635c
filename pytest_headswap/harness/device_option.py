"""Validate the options that name a device."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

from pytest_headswap._devices import BACKEND_PACKAGES, DEVICE_TYPES, SIMULATED
from pytest_headswap._text import did_you_mean, single_line
from pytest_headswap.case.options import AUTO
from pytest_headswap.harness.options import OptionError

DEVICE_CHOICES = "auto, cpu, or TYPE or TYPE:N such as cuda, cuda:1, mps, xla or simulated:mps"


def parse_device(value: Any, option_name: str, backend: str = "", backend_option: str = "") -> str:
    """Validate `value` as an available device. Torch is imported only if it names one other than the CPU.

    Args:
        value: `auto`, `cpu`, a type of device with or without an index, or `simulated` with or without a type.
        option_name: the option, for messages.
        backend: module that defines the type; it is imported first.
        backend_option: the option that gives `backend`, for messages.

    Raises:
        OptionError: it does not name a device, this machine does not have the device, or the backend cannot be
            imported.
    """
    real = str(value).removeprefix(f"{SIMULATED}:")
    kind, index = _split(value, option_name) if real == value else _split_simulated(value, real, option_name)
    if backend != "":
        _import_backend(backend, backend_option)
    elif kind not in (AUTO, "cpu", SIMULATED, *DEVICE_TYPES) and not entry_points(group="torch.backends"):
        raise OptionError(_unknown_type(value, kind, option_name, backend_option))
    if kind == AUTO and backend:
        _require_accelerator(backend, option_name, backend_option)
    if kind not in (AUTO, "cpu", SIMULATED):
        given, remedy = f"{option_name}={value}", _remedy(kind, backend, backend_option)
        _require_type(kind, given, remedy)
        if real == value:
            _require_device(kind, index, given, remedy)
    return str(value)


def _split(value: Any, option_name: str) -> tuple[str, int | None]:
    """Return the type and the index of a device."""
    match = re.fullmatch(r"([a-z]\w*)(?::(0|[1-9]\d*))?", value, re.ASCII) if isinstance(value, str) else None
    if match is None or (match[2] and match[1] in (AUTO, "cpu")):
        kind = str(value).lower().partition(":")[0]
        raise OptionError(f"{option_name} must be {DEVICE_CHOICES}, not {value!r}{_suggestion(kind)}")
    return match[1], None if match[2] is None else int(match[2])


def _split_simulated(value: str, kind: str, option_name: str) -> tuple[str, None]:
    """Return the type to simulate, and no index."""
    if not re.fullmatch(r"[a-z]\w*", kind, re.ASCII) or kind in (AUTO, "cpu", "meta", SIMULATED):
        raise OptionError(
            f"{option_name} is {value!r}, but simulated takes a type of device without an index, such as simulated:mps"
        )
    return kind, None


def _suggestion(kind: str) -> str:
    if kind in ("cpu", *DEVICE_TYPES):
        return f": did you mean {kind}?"
    return did_you_mean(kind.replace("gpu", "cuda").replace("tpu", "xla"), (AUTO, "cpu", SIMULATED, *DEVICE_TYPES))


def _unknown_type(value: str, kind: str, option_name: str, backend_option: str) -> str:
    hint = _suggestion(kind)
    more = f" If a package defines the type {kind}, name the package with {backend_option}"
    return f"{option_name} must be {DEVICE_CHOICES}, not {value!r}{hint}{more if hint == '.' else ''}"


def _import_backend(name: Any, option_name: str) -> None:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise OptionError(f"{option_name} must be the name of a Python module such as torch_npu, not {name!r}")
    import torch  # noqa: F401 - a backend may rely on it

    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if not error.name or not f"{name}.".startswith(f"{error.name}."):
            raise OptionError(_import_failure(name, option_name, error)) from error
        raise OptionError(
            f"{option_name}={name}: there is no module {error.name}. "
            f"Install the package that has it, for {sys.executable}, or correct the name"
        ) from error
    except (Exception, SystemExit) as error:
        raise OptionError(_import_failure(name, option_name, error)) from error


def _import_failure(name: str, option_name: str, error: BaseException) -> str:
    import torch

    return (
        f"{option_name}={name}: importing it with torch {torch.__version__} raises "
        f"{type(error).__name__}: {single_line(str(error))}"
    )


def _require_accelerator(backend: str, option_name: str, backend_option: str) -> None:
    from pytest_headswap.engine.pytorch import accelerators

    if not accelerators.current_type():
        kind = next((kind for kind, package in BACKEND_PACKAGES.items() if package == backend), "TYPE")
        raise OptionError(
            f"{backend_option}={backend}: torch names no accelerator after the import. "
            f"Add {option_name}={kind} to use its devices, or remove {backend_option}"
        )


def _remedy(kind: str, backend: str, backend_option: str) -> str:
    """Return a sentence on how to get devices of a type that a package defines; empty if there is none."""
    package = BACKEND_PACKAGES.get(kind)
    if package is None or backend:
        return ""
    top = package.partition(".")[0]
    install = "" if find_spec(top) is not None else f"install {top} and "
    return f" The package {top} defines it: {install}add {backend_option}={package}."


def _require_type(kind: str, given: str, remedy: str) -> None:
    import torch

    try:
        torch.device(kind)
    except RuntimeError as error:
        more = f".{remedy}" if remedy else f"{_suggestion(kind)} {single_line(str(error))}"
        raise OptionError(f"{given}: torch {torch.__version__} knows no device of type {kind}{more}") from error


def _require_device(kind: str, index: int | None, given: str, remedy: str) -> None:
    import torch

    from pytest_headswap.engine.pytorch import accelerators
    from pytest_headswap.harness.devices_here import ask_elsewhere

    here = f"torch {torch.__version__}"
    count, why = ask_elsewhere(kind, partial(accelerators.count, kind))
    if why:
        raise OptionError(f"{given}: {here} cannot count the devices of type {kind}: {why}")
    if not count:
        finds = f"finds no {'GPU' if kind == 'cuda' else f'device of type {kind}'}"
        if kind == "cuda" and not (torch.version.cuda or torch.version.hip):
            finds = "is built for the CPU only"
        raise OptionError(
            f"{given}: {here} {finds}{_visible(kind)}.{remedy} Use cpu, or auto to use whatever is available"
        )
    if index is not None and index >= count:
        there = f"{kind}:0 is the only one" if count == 1 else f"the last one is {kind}:{count - 1}"
        raise OptionError(f"{given}, but {there} here{_visible(kind)}")


def _visible(kind: str) -> str:
    """Return the setting that hides devices of a type, as the end of a clause; empty if there is none."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES") if kind == "cuda" else None
    return "" if setting is None else f" with CUDA_VISIBLE_DEVICES={setting!r}"
