"""Validate the options of a case and its checks, with and without pytest. Each error says what to type instead."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pytest_headswap._numbers import as_count
from pytest_headswap._text import did_you_mean, split_commas
from pytest_headswap.case.options import AUTO, CaseOptions
from pytest_headswap.harness.environment_shard import EnvironmentShardError, environment_shard

if TYPE_CHECKING:
    from pytest_headswap.checks import Check

EVIDENCE = ("auto", "abstract", "numeric")
ISOLATION = ("auto", "fork", "spawn")
EXECUTORS = ("local", "ray")
ANNOTATIONS = ("github", "auto", "none")
MAX_SHARDS = 10_000
MIN_MEMORY = 64 * 2**20


class OptionError(ValueError):
    """An invalid option. The message says what to use instead, and `page` names the docs page about it."""

    def __init__(self, message: str, page: str = "options") -> None:
        super().__init__(message)
        self.page = page


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of the models, numbered from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse_shard(value: str, option_name: str) -> Shard | None:
    """Parse `value` as a shard I/N; return None if it is empty. `auto` and `auto/N` read it from the environment.

    Raises:
        OptionError: it is not I/N with I at most N, N is too large, or the environment does not say which shard it is.
    """
    if not value:
        return None
    if automatic := re.fullmatch(r"auto(?:\s*/\s*([1-9]\d*))?", value, re.ASCII):
        try:
            number, count = environment_shard(os.environ, int(automatic[1]) if automatic[1] else None)
        except EnvironmentShardError as error:
            raise OptionError(f"{option_name}={value}: {error}", page="scale") from error
        value = f"{number}/{count}"
    match = re.fullmatch(r"([1-9]\d*)\s*/\s*([1-9]\d*)", value, re.ASCII)
    if match is None:
        raise OptionError(
            f"{option_name} must be I/N, such as 2/8 for the second of eight machines, or auto, not {value!r}"
        )
    shard = Shard(int(match[1]), int(match[2]))
    if shard.number > shard.count:
        raise OptionError(
            f"{option_name} is {value!r}, but the last of {shard.count} parts is {shard.count}/{shard.count}"
        )
    if shard.count > MAX_SHARDS:
        raise OptionError(f"{option_name} is {value!r}, but there can be no more than {MAX_SHARDS} parts")
    return shard


def parse_num_classes(value: Any, option_name: str) -> int:
    """Parse `value` as a class count.

    Raises:
        OptionError: it is not a positive whole number. The message names the option.
    """
    number = as_count(int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value)
    if number is None or number < 1:
        raise OptionError(
            f"{option_name} must be a positive whole number, not {value!r}: "
            f"give the class count of the new heads, such as {CaseOptions.num_classes}"
        )
    return number


def parse_timeout(value: Any, option_name: str) -> float:
    """Parse `value` as seconds; return an int if it is whole.

    Raises:
        OptionError: it is not a positive number.
    """
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise OptionError(
            f"{option_name} must be a positive number of seconds, such as {CaseOptions.timeout}, not {value!r}"
        )
    return int(seconds) if seconds == int(seconds) else seconds


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?B)?|B)", re.ASCII | re.IGNORECASE)


def parse_memory_size(value: Any, option_name: str) -> int:
    """Parse `value` as a number of bytes. Units such as MB count in powers of 1000; M and MiB in powers of 1024.

    Raises:
        OptionError: it is not a size, or it is too small.
    """
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise OptionError(f"{option_name} must be a size such as 2.5GiB, 2500MB or 4G, or {AUTO}, not {value!r}")
    number, prefix, unit = match.groups()
    base = 1000 if (unit or "").upper() == "B" else 1024
    size = int(float(number) * base ** (" KMGT".index(prefix.upper()) if prefix else 0))
    if size < MIN_MEMORY:
        raise OptionError(f"{option_name} is {value!r}, but no model runs in less than {MIN_MEMORY // 2**20} MiB")
    return size


def parse_memory_limit(value: Any, option_name: str) -> str:
    """Validate `value` as a memory budget and return it as written: the size of `auto` differs between machines.

    Raises:
        OptionError: it is not a size.
    """
    if value != AUTO:
        parse_memory_size(value, option_name)
    return str(value)


def parse_percentage(value: str, option_name: str) -> float:
    """Parse `value` as a percentage, such as `5%`.

    Raises:
        OptionError: it is not one above 0 and at most 100.
    """
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*%", value, re.ASCII)
    if match is None or not 0 < float(match[1]) <= 100:
        raise OptionError(f"{option_name} must be a percentage such as 5%, not {value!r}")
    return float(match[1])


def parse_executor(value: str, option_name: str) -> str:
    """Validate `value` as a place to run models, and return it with the number of CPUs in the place of `auto`.

    It is `local`, `local:N` or `local:auto` for several processes of this machine, `ray`, or `ray:ADDRESS` with the
    address of a cluster.

    Raises:
        OptionError: there is no such executor, or Ray is not installed.
    """
    kind, separator, place = value.partition(":")
    is_count = re.fullmatch(r"[1-9]\d{0,3}|auto", place, re.ASCII) is not None
    if kind not in EXECUTORS or (separator and not (is_count if kind == "local" else place)):
        raise OptionError(
            f"{option_name} must be local, local:N for N processes, local:auto for one on each CPU, ray, or "
            f"ray:ADDRESS such as ray:10.0.0.1:6379, not {value!r}{did_you_mean(kind, EXECUTORS)}",
            page="scale",
        )
    if kind == "ray" and find_spec("ray") is None:
        raise OptionError(
            f"{option_name}={value} needs Ray, which is not installed: run pip install 'pytest-headswap[ray]'",
            page="scale",
        )
    return f"local:{_usable_cpus()}" if value == "local:auto" else value


def _usable_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def parse_isolation(value: str, option_name: str) -> str:
    """Validate `value` as a way to start child processes.

    Raises:
        OptionError: there is no such way, or this system lacks it.
    """
    if value not in ISOLATION:
        raise OptionError(
            f"{option_name} must be one of {', '.join(ISOLATION)}, not {value!r}{did_you_mean(value, ISOLATION)}"
        )
    if value == "fork" and not hasattr(os, "fork"):
        raise OptionError(f"{option_name}=fork: this system cannot fork processes. Use spawn or auto")
    return value


def parse_annotations(value: str, option_name: str) -> bool:
    """Return whether failures are printed as annotations of GitHub.

    Raises:
        OptionError: there are no such annotations.
    """
    if value not in ANNOTATIONS:
        raise OptionError(
            f"{option_name} must be one of {', '.join(ANNOTATIONS)}, not {value!r}{did_you_mean(value, ANNOTATIONS)}"
        )
    return value == "github" or (value == "auto" and os.environ.get("GITHUB_ACTIONS") == "true")


def parse_evidence(value: Any, option_name: str) -> str:
    """Validate `value` as a kind of evidence.

    Raises:
        OptionError: there is no such kind.
    """
    if value not in EVIDENCE:
        raise OptionError(
            f"{option_name} must be one of {', '.join(EVIDENCE)}, not {value!r}{did_you_mean(value, EVIDENCE)}"
        )
    return str(value)


def reject_unknown_checks(names: Iterable[Any], known: Collection[str], option_name: str) -> None:
    """Reject names of checks, with or without `+` or `!`, that are not known.

    Raises:
        OptionError: there is no such check; the message suggests close matches.
    """
    for name in names:
        plain = _without_sign(str(name))
        if plain not in known:
            raise OptionError(
                f"unknown check {plain!r} in {option_name}{did_you_mean(plain, known)} "
                f"The checks are {', '.join(known)}"
            )


def select_checks(requested: Iterable[Any], available: Mapping[str, Check], option_name: str) -> tuple[Check, ...]:
    """Return the given checks, by name or as objects, in running order: those in `available` first.

    `+name` adds a check, and `!name` excludes one. Without a plain name or an object, they change the default set: all
    checks that are not opt-in.

    Raises:
        OptionError: there is no such check, or two checks have the same name.
    """
    from pytest_headswap.checks import Check

    items = list(requested)
    added = [_without_sign(item) for item in items if isinstance(item, str) and item.startswith("+")]
    excluded = {_without_sign(item) for item in items if isinstance(item, str) and item.startswith("!")}
    included = [item for item in items if not (isinstance(item, str) and item.startswith(_SIGNS))]
    chosen: dict[str, Check] = {}
    for item in [*excluded, *(included or (default_checks(available) if items else ())), *added]:
        name = item.name if isinstance(item, Check) else item
        if not isinstance(item, Check):
            reject_unknown_checks([name], available, option_name)
        check = item if isinstance(item, Check) else available[name]
        if chosen.setdefault(name, check) != check:
            raise OptionError(f"two checks in {option_name} are called {name!r}: rename one")
    if excluded and excluded >= chosen.keys():
        raise OptionError(f"{option_name} excludes every check: remove some of the ! names")
    order = {name: position for position, name in enumerate(available)}
    kept = (check for name, check in chosen.items() if name not in excluded)
    return tuple(sorted(kept, key=lambda check: order.get(check.name, len(order))))


def default_checks(available: Mapping[str, Check]) -> list[str]:
    """Return the names of the checks that run unless something else is requested."""
    return [name for name, check in available.items() if not check.opt_in]


_SIGNS = ("+", "!")


def _without_sign(name: str) -> str:
    return name[1:].strip() if name.startswith(_SIGNS) else name.strip()


def requested_checks(checks: str | Iterable[str | Check] | None) -> tuple[Check, ...]:
    """Return the checks that the argument `checks` selects; the default ones for None."""
    from pytest_headswap.checks.registry import BUILTIN_CHECKS

    if checks is None:
        checks = default_checks(BUILTIN_CHECKS)
    return select_checks(split_commas(checks) if isinstance(checks, str) else checks, BUILTIN_CHECKS, "checks")
