"""A run states its plan and its expected duration."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_headswap.plugin.planning import costs
from pytest_headswap.plugin.planning.run_plan import RunEstimate, format_estimate, worker_count

ZOO = "--headswap-zoo=testzoo"
CHECKS = "--headswap-checks=output_shape,metadata"
TWO = "--headswap-models=alpha,lonely"


@pytest.fixture
def shipped(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs for `testzoo`, as if they came with the package."""
    folder = tmp_path_factory.mktemp("costs")
    models = {"alpha": [600, 100], "beta.v1_5": [60, 100], "lonely": [1200, 100]}
    (folder / "testzoo.json").write_text(json.dumps({"versions": {"testlib": "1.2"}, "models": models}))
    monkeypatch.setattr(costs, "FOLDER", folder)


@pytest.mark.usefixtures("shipped")
def test_the_header_states_the_plan_and_the_expected_duration(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, TWO, "--collect-only")
    result.stdout.fnmatch_lines(
        [
            "headswap: testzoo (2 of 8 *",
            "headswap: plan: 2 models, 16 checks, numeric where memory allows, about 30 minutes",
        ]
    )


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("flag", [CHECKS, "--headswap-evidence=abstract"])
def test_the_measured_duration_is_an_upper_bound_for_a_smaller_run(project: pytest.Pytester, flag: str) -> None:
    result = project.runpytest_inprocess(ZOO, TWO, "--collect-only", flag)
    result.stdout.fnmatch_lines(["headswap: plan: 2 models, *, at most about 30 minutes"])


@pytest.mark.usefixtures("shipped")
def test_a_model_known_to_be_too_large_is_planned_with_abstract_evidence(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, "--headswap-memory-limit=90MB", "--collect-only")
    result.stdout.fnmatch_lines(["headswap: plan: *, numeric for 5, abstract for 3 that take too much memory, *"])


def test_costs_measured_here_suffice_for_a_zoo_without_shipped_costs(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha")
    result = project.runpytest_inprocess(ZOO, CHECKS, TWO, "--collect-only")
    result.stdout.fnmatch_lines(["headswap: plan: 2 models, 4 checks, numeric where memory allows, about a minute"])


@pytest.mark.usefixtures("shipped")
def test_workers_share_the_time_but_not_the_longest_model(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    flags = ["--headswap-checks=metadata", "--headswap-models=alpha,lonely", "-n", "2"]
    result = project.runpytest_inprocess(ZOO, *flags)
    result.stdout.fnmatch_lines(["headswap: plan: 2 models, 2 checks, *, at most about 20 minutes on 2 workers"])


def test_a_zoo_without_any_costs_has_no_expected_duration(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, "--collect-only", "--headswap-evidence=numeric")
    result.stdout.fnmatch_lines(["headswap: plan: 8 models, 64 checks, numeric"])


def test_a_run_without_a_model_needs_no_time() -> None:
    assert RunEstimate({}, "measured").duration(2) == 0
    assert RunEstimate({"a": 3.0, "b": 1.0, "c": 4.0}, "measured").duration(2) == 4


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "a minute"),
        (89, "a minute"),
        (91, "2 minutes"),
        (7169, "119 minutes"),
        (7200, "2 h 0 min"),
        (1e5, "27 h 47 min"),
    ],
)
def test_durations_are_rounded_to_their_precision(seconds: float, told: str) -> None:
    assert format_estimate(seconds) == told


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({"dist": "no", "tx": ["popen"] * 3}, 1),
        ({"dist": "each", "tx": ["popen"] * 3}, 1),
        ({"dist": "load", "tx": ["popen"] * 3}, 3),
        ({"dist": "load", "tx": ["3*popen", "ssh=host//python=python3"]}, 4),
    ],
)
def test_workers_are_counted(options: dict[str, Any], count: int) -> None:
    config: Any = SimpleNamespace(getoption=options.get)
    assert worker_count(config) == count
