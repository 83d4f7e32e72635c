"""Models whose shipped peak memory exceeds the limit get abstract evidence, and the header says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_headswap.plugin.collection.select_executor import worker_count
from pytest_headswap.plugin.planning import costs
from pytest_headswap.results import Result

ZOO = "--headswap-zoo=testzoo"
FLAGS = ("--headswap-models=alpha,lonely", "--headswap-checks=output_shape", "--headswap-memory-limit=500MiB")


@pytest.fixture(autouse=True)
def _shipped_costs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the shipped costs by a file for `testzoo`."""
    folder = tmp_path_factory.mktemp("costs")
    models = {"alpha": [1, 600], "beta.v1_5": [1, 700], "lonely": [2, 100]}
    (folder / "testzoo.json").write_text(json.dumps({"versions": {"testlib": "1.2"}, "models": models}))
    monkeypatch.setattr(costs, "FOLDER", folder)


def test_an_oversized_model_gets_abstract_evidence_and_the_result_says_why(
    project: pytest.Pytester, journal: Callable[[], dict[str, Result]]
) -> None:
    result = project.runpytest_inprocess(ZOO, *FLAGS)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["headswap: limits: * and 500 MiB for each model; abstract evidence for 1 model known to need more memory"]
    )
    alpha, lonely = journal().values()
    assert (alpha.evidence, lonely.evidence) == ("abstract", "numeric")
    assert "600 MiB" in alpha.message
    assert "more than the 500 MiB" in alpha.message


def test_only_models_of_this_run_are_counted(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, "--headswap-memory-limit=500MiB", "--collect-only")
    result.stdout.fnmatch_lines(["headswap: limits: *; abstract evidence for 2 models known to need more memory"])
    result = project.runpytest_inprocess(ZOO, *FLAGS, "--headswap-models=lonely", "--collect-only")
    result.stdout.fnmatch_lines(["headswap: limits: * and 500 MiB for each model"])


def test_a_higher_limit_restores_numeric_evidence(
    project: pytest.Pytester, journal: Callable[[], dict[str, Result]]
) -> None:
    project.runpytest_inprocess(ZOO, *FLAGS, "--headswap-memory-limit=2GiB").assert_outcomes(passed=2)
    assert {item.evidence for item in journal().values()} == {"numeric"}


def test_shipped_peaks_do_not_override_the_evidence_the_user_chose(
    project: pytest.Pytester, journal: Callable[[], dict[str, Result]]
) -> None:
    result = project.runpytest_inprocess(ZOO, *FLAGS, "--headswap-evidence=numeric")
    result.stdout.fnmatch_lines(["headswap: limits: * and 500 MiB for each model"])
    assert {item.evidence for item in journal().values()} == {"numeric"}


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({"dist": "no", "tx": ["popen"] * 3}, 1),
        ({"dist": "load", "tx": ["popen"] * 3}, 3),
        ({"dist": "load", "tx": ["3*popen", "ssh=host//python=python3"]}, 4),
    ],
)
def test_the_workers_that_share_the_memory_are_counted(options: dict[str, Any], count: int) -> None:
    config: Any = SimpleNamespace(getoption=options.get)
    assert worker_count(config) == count
