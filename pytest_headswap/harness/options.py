"""Validate the options of a case and its checks, with and without pytest. Each error says what to type instead."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pytest_headswap._numbers import as_count
from pytest_headswap._text import did_you_mean, listed

if TYPE_CHECKING:
    from pytest_headswap.checks import Check

DEFAULT_NUM_CLASSES = 7
EVIDENCE = ("auto", "structure", "numeric")
MOST_SHARDS = 10_000
DEFAULT_TIMEOUT = 300
AUTO_MEMORY = "auto"
LEAST_MEMORY = 64 * 2**20
DEVICES = "auto, cpu, cuda, or cuda:N with a number"


class AskedError(ValueError):
    """An invalid option; the message says what to use instead, and `page` names the page of the docs about it."""

    def __init__(self, message: str, page: str = "options") -> None:
        super().__init__(message)
        self.page = page


@dataclass(frozen=True)
class CaseOptions:
    """The options that determine how a case is built."""

    num_classes: int = DEFAULT_NUM_CLASSES
    evidence: str = "auto"
    device: str = "auto"
    timeout: float = DEFAULT_TIMEOUT
    memory: str = AUTO_MEMORY

    def flags(self) -> list[str]:
        """Return the command-line options that set the same values; defaults are omitted."""
        changed = [item.name for item in fields(self) if getattr(self, item.name) != item.default]
        return [f"--headswap-{name.replace('_', '-')}={getattr(self, name)}" for name in changed]


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of the models, numbered from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def shard_of(value: str, where: str) -> Shard | None:
    """Parse `value` as a shard I/N; return None if it is empty.

    Raises:
        AskedError: it is not I/N with I at most N, or N is too large.
    """
    if not value:
        return None
    found = re.fullmatch(r"([1-9]\d*)\s*/\s*([1-9]\d*)", value, re.ASCII)
    if found is None:
        raise AskedError(f"{where} must be I/N, such as 2/8 for the second of eight machines, not {value!r}")
    shard = Shard(int(found[1]), int(found[2]))
    if shard.number > shard.count:
        raise AskedError(f"{where} is {value!r}, but the last of {shard.count} parts is {shard.count}/{shard.count}")
    if shard.count > MOST_SHARDS:
        raise AskedError(f"{where} is {value!r}, but there can be no more than {MOST_SHARDS} parts")
    return shard


def class_count(value: Any, where: str) -> int:
    """Parse `value` as a class count.

    Raises:
        AskedError: it is not a positive whole number. The message names the option as `where`.
    """
    number = as_count(int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value)
    if number is None or number < 1:
        raise AskedError(
            f"{where} must be a positive whole number, not {value!r}: "
            f"give the class count of the new heads, such as {DEFAULT_NUM_CLASSES}"
        )
    return number


def timeout_seconds(value: Any, where: str) -> float:
    """Parse `value` as seconds; return an int if it is whole.

    Raises:
        AskedError: it is not a positive number.
    """
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise AskedError(f"{where} must be a positive number of seconds, such as {DEFAULT_TIMEOUT}, not {value!r}")
    return int(seconds) if seconds == int(seconds) else seconds


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?B)?|B)", re.ASCII | re.IGNORECASE)


def memory_size(value: Any, where: str) -> int:
    """Parse `value` as a number of bytes. Units such as MB count in powers of 1000; M and MiB in powers of 1024.

    Raises:
        AskedError: it is not a size, or it is too small.
    """
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise AskedError(f"{where} must be a size such as 2.5GiB, 2500MB or 4G, or {AUTO_MEMORY}, not {value!r}")
    number, prefix, unit = found.groups()
    base = 1000 if (unit or "").upper() == "B" else 1024
    size = int(float(number) * base ** (" KMGT".index(prefix.upper()) if prefix else 0))
    if size < LEAST_MEMORY:
        raise AskedError(f"{where} is {value!r}, but no model runs in less than {LEAST_MEMORY // 2**20} MiB")
    return size


def memory_budget(value: Any, where: str) -> str:
    """Validate `value` as a memory budget and return it as written: the size of `auto` differs between machines.

    Raises:
        AskedError: it is not a size.
    """
    if value != AUTO_MEMORY:
        memory_size(value, where)
    return str(value)


def evidence_kind(value: Any, where: str) -> str:
    """Validate `value` as a kind of evidence.

    Raises:
        AskedError: there is no such kind.
    """
    if value not in EVIDENCE:
        raise AskedError(f"{where} must be one of {', '.join(EVIDENCE)}, not {value!r}{did_you_mean(value, EVIDENCE)}")
    return str(value)


def device_name(value: Any, where: str) -> str:
    """Validate `value` as an available device; torch is imported only if it names a GPU.

    Raises:
        AskedError: it does not name a device, or this machine does not have the device.
    """
    if value in ("auto", "cpu"):
        return str(value)
    found = re.fullmatch(r"cuda(?::(0|[1-9]\d*))?", value, re.ASCII) if isinstance(value, str) else None
    if found is None:
        hint = did_you_mean(value, ("auto", "cpu", "cuda"))
        raise AskedError(f"{where} must be {DEVICES}, such as cuda:0, not {value!r}{hint}")

    import torch

    count = gpu_count()
    if not count:
        built = "finds no GPU" if torch.version.cuda or torch.version.hip else "is built for the CPU only"
        raise AskedError(
            f"{where}={value}: torch {torch.__version__} {built}. Use cpu, or auto to use whatever is available"
        )
    if found[1] is not None and int(found[1]) >= count:
        there = "cuda:0 is the only one" if count == 1 else f"the last one is cuda:{count - 1}"
        raise AskedError(f"{where} is {value!r}, but {there} here")
    return str(value)


def gpu_count() -> int:
    """Return the number of GPUs without creating a CUDA context, which would break CUDA in forked processes."""
    import torch

    return torch.cuda.device_count()


def select_checks(asked: Iterable[Any], known: Mapping[str, Check], where: str) -> tuple[Check, ...]:
    """Return the given checks, by name or as objects, in running order: those in `known` first.

    Raises:
        AskedError: there is no such check, or two checks have the same name.
    """
    from pytest_headswap.checks import Check

    chosen: dict[str, Check] = {}
    for item in asked:
        name = item.name if isinstance(item, Check) else item
        if not isinstance(item, Check) and name not in known:
            raise AskedError(
                f"unknown check {name!r} in {where}{did_you_mean(name, known)} The checks are {', '.join(known)}"
            )
        check = item if isinstance(item, Check) else known[name]
        if chosen.setdefault(name, check) != check:
            raise AskedError(f"two checks in {where} are called {name!r}: rename one")
    order = {name: position for position, name in enumerate(known)}
    return tuple(sorted(chosen.values(), key=lambda check: order.get(check.name, len(order))))


def case_options(num_classes: int, evidence: str, device: str, memory: str) -> CaseOptions:
    """Return the options of a case from the arguments of `check_headswap`."""
    return CaseOptions(
        class_count(num_classes, "num_classes"),
        evidence_kind(evidence, "evidence"),
        device_name(str(device), "device"),
        memory=memory_budget(memory, "memory"),
    )


def chosen_checks(checks: str | Iterable[str | Check] | None) -> tuple[Check, ...]:
    """Return the checks that the argument `checks` selects; all of them for None."""
    from pytest_headswap.checks import CHECKS

    if checks is None:
        return tuple(CHECKS.values())
    return select_checks(listed(checks) if isinstance(checks, str) else checks, CHECKS, "checks")
