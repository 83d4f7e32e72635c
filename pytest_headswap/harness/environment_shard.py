"""Read the shard of this machine from the variables of a CI system or a scheduler (`--headswap-shard=auto`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class EnvironmentShardError(ValueError):
    """The environment does not say which shard this machine has; the message says what is missing or contradictory."""


@dataclass(frozen=True)
class _System:
    """The variables of a system.

    Attributes:
        index, count: the variables with the number of this machine, and with the number of machines, if there is one.
        first: the number of the first machine, or the variable that holds it.
        step: the variable with the distance between two numbers, if they are not consecutive.
        last: the variable with the number of the last machine, to notice numbers at uneven distances.
    """

    name: str
    index: str
    count: str = ""
    first: int | str = 0
    step: str = ""
    last: str = ""


_SYSTEMS = (
    _System("GitLab", "CI_NODE_INDEX", "CI_NODE_TOTAL", first=1),
    _System("Buildkite", "BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT"),
    _System("CircleCI", "CIRCLE_NODE_INDEX", "CIRCLE_NODE_TOTAL"),
    _System(
        *("Slurm", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
        *("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_MAX"),
    ),
    _System("Kubernetes", "JOB_COMPLETION_INDEX"),
)


def environment_shard(environment: Mapping[str, str], given_count: int | None = None) -> tuple[int, int]:
    """Return the number of this machine, from 1, and the number of machines.

    Args:
        environment: the environment variables.
        given_count: the number of machines, if the user gives it.

    Raises:
        EnvironmentShardError: no known system sets its variables, or they contradict each other.
    """
    found = [system for system in _SYSTEMS if environment.get(system.index)]
    if not found:
        names = ", ".join(f"{system.index} ({system.name})" for system in _SYSTEMS)
        raise EnvironmentShardError(f"none of these variables is set: {names}. Give I/N, such as 2/8")
    if len(found) > 1:
        names = " and ".join(f"{system.index} ({system.name})" for system in found)
        raise EnvironmentShardError(f"{names} are set: it is not clear which one counts. Give I/N, such as 2/8")
    (system,) = found
    count = _number(environment, system.count) if environment.get(system.count) else None
    if count is None and given_count is None:
        missing = (
            f"{system.count} is not set" if system.count else f"{system.name} does not tell the number of machines"
        )
        raise EnvironmentShardError(f"{missing}: give it, such as auto/8")
    if count is not None and given_count not in (None, count):
        raise EnvironmentShardError(f"{system.count} is {count}, and not {given_count}")
    count = count or given_count or 1
    first = _number(environment, system.first) if isinstance(system.first, str) else system.first
    step = _number(environment, system.step) if system.step else 1
    if system.last and _number(environment, system.last) != first + (count - 1) * step:
        raise EnvironmentShardError(
            f"{system.first}, {system.last}, {system.step} and {system.count} do not fit together: "
            "use one range of numbers, such as --array=0-7, without gaps"
        )
    number, rest = divmod(_number(environment, system.index) - first, step)
    if rest or not 0 <= number < count:
        last = first + (count - 1) * step
        raise EnvironmentShardError(f"{system.index} is {environment[system.index]}, and not from {first} to {last}")
    return number + 1, count


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not (text.isascii() and text.isdigit()) or (name.endswith(("STEP", "TOTAL", "COUNT")) and int(text) == 0):
        raise EnvironmentShardError(f"{name} is {text!r}, which is not a number")
    return int(text)
