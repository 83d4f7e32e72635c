"""`--headswap-shard=auto` reads the shard from the variables of CI systems and schedulers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_headswap.harness.environment_shard import EnvironmentShardError, environment_shard
from pytest_headswap.harness.options import OptionError, Shard, parse_shard

GITLAB = {"CI_NODE_INDEX": "2", "CI_NODE_TOTAL": "8"}
BUILDKITE = {"BUILDKITE_PARALLEL_JOB": "1", "BUILDKITE_PARALLEL_JOB_COUNT": "8"}
CIRCLECI = {"CIRCLE_NODE_INDEX": "1", "CIRCLE_NODE_TOTAL": "8"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "1"}


def slurm(task: int, first: int, step: int, count: int) -> dict[str, str]:
    """Return the variables of a task of `--array=FIRST-LAST:STEP`."""
    values = {"ID": task, "MIN": first, "MAX": first + (count - 1) * step, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize("environment", [GITLAB, BUILDKITE, CIRCLECI, slurm(1, 0, 1, 8), slurm(12, 10, 2, 8)])
def test_the_second_of_eight_machines(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_shard({**environment, "PATH": "/bin"}) == (2, 8)
    assert environment_shard(environment, 8) == (2, 8)
    with pytest.raises(EnvironmentShardError, match="is 8, and not 4"):
        environment_shard(environment, 4)
    for name in ("CI_NODE_INDEX", *environment):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse_shard("auto", "--headswap-shard") == Shard(2, 8)


@given(st.integers(0, 50), st.integers(1, 7), st.integers(1, 40))
def test_the_tasks_of_a_slurm_array_are_the_shards_in_order(first: int, step: int, count: int) -> None:
    tasks = range(first, first + count * step, step)
    found = [environment_shard(slurm(task, first, step, count)) for task in tasks]
    assert found == [(number, count) for number in range(1, count + 1)]
    for task in {*range(first - step, first + (count + 1) * step)} - {*tasks}:
        with pytest.raises(EnvironmentShardError):
            environment_shard(slurm(task, first, step, count))


def test_kubernetes_needs_the_number_of_machines() -> None:
    assert environment_shard(KUBERNETES, 8) == (2, 8)
    with pytest.raises(EnvironmentShardError, match=r"does not tell the number of machines: give it, such as auto/8"):
        environment_shard(KUBERNETES)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "none of these variables is set: CI_NODE_INDEX"),
        ({"CI_NODE_TOTAL": "1"}, "none of these variables is set"),
        ({**GITLAB, **CIRCLECI}, "CI_NODE_INDEX .GitLab. and CIRCLE_NODE_INDEX .CircleCI. are set"),
        ({"CI_NODE_INDEX": "2"}, "CI_NODE_TOTAL is not set: give it"),
        ({**GITLAB, "CI_NODE_INDEX": "9"}, "CI_NODE_INDEX is 9, and not from 1 to 8"),
        ({**GITLAB, "CI_NODE_INDEX": "0"}, "CI_NODE_INDEX is 0, and not from 1 to 8"),
        ({**GITLAB, "CI_NODE_TOTAL": "0"}, "CI_NODE_TOTAL is '0', which is not a number"),
        ({**GITLAB, "CI_NODE_INDEX": "two"}, "CI_NODE_INDEX is 'two', which is not a number"),
        ({**CIRCLECI, "CIRCLE_NODE_INDEX": "8"}, "CIRCLE_NODE_INDEX is 8, and not from 0 to 7"),
        ({**CIRCLECI, "CIRCLE_NODE_INDEX": "-1"}, "'-1', which is not a number"),
        ({**CIRCLECI, "CIRCLE_NODE_INDEX": "٣"}, "which is not a number"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_COUNT is not set"),
        ({**slurm(5, 1, 1, 3), "SLURM_ARRAY_TASK_MAX": "7"}, "do not fit together: use one range of numbers"),
        ({**slurm(5, 1, 1, 3), "SLURM_ARRAY_TASK_STEP": "0"}, "SLURM_ARRAY_TASK_STEP is '0'"),
    ],
)
def test_a_missing_or_contradictory_variable_is_an_error(environment: dict[str, str], message: str) -> None:
    with pytest.raises(EnvironmentShardError, match=message):
        environment_shard(environment)


@pytest.mark.parametrize("text", ["auto/0", "auto/x", "Auto", "auto/", "auto8"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="must be I/N"):
        parse_shard(text, "--headswap-shard")


def test_auto_has_the_same_limit_as_other_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    for name in ("CI_NODE_INDEX", "BUILDKITE_PARALLEL_JOB", "CIRCLE_NODE_INDEX", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OptionError, match="no more than"):
        parse_shard("auto/10001", "--headswap-shard")
