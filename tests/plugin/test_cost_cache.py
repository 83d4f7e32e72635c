"""A run stores the costs of its models in pytest's cache for the next run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_headswap.plugin.planning import cost_cache

ZOO = "--headswap-zoo=testzoo"
CHECKS = "--headswap-checks=output_shape,metadata"
TWO = "--headswap-models=alpha,lonely"


def _cached(project: pytest.Pytester) -> dict[str, dict[str, Any]]:
    path = project.path / ".pytest_cache" / "v" / "headswap" / "costs" / "testzoo"
    found: dict[str, dict[str, Any]] = json.loads(json.loads(path.read_text()))
    return found


def test_a_run_stores_the_costs_of_its_models_for_the_next_run(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, TWO)
    ((kind, models),) = _cached(project).items()
    assert kind == "testlib 1.2, auto, auto, output_shape, metadata"
    assert models.keys() == {"alpha", "lonely"}
    assert all(0 < seconds < 60 and peak >= 0 for seconds, peak in models.values())
    result = project.runpytest_inprocess(ZOO, CHECKS, TWO)
    result.stdout.fnmatch_lines(["headswap: plan: 2 models, 4 checks, *, about a minute"])


def test_a_later_run_adds_costs_and_other_options_have_their_own(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha")
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=lonely")
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=doubled", "--headswap-evidence=abstract")
    assert [list(models) for models in _cached(project).values()] == [["doubled"], ["lonely", "alpha"]]


def test_a_model_with_a_deselected_check_is_not_stored(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, TWO, "--deselect", "testzoo::alpha::metadata")
    ((_, models),) = _cached(project).items()
    assert models.keys() == {"lonely"}


def test_the_number_of_stored_costs_is_limited(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_cache, "MAX_MODELS", 3)
    monkeypatch.setattr(cost_cache, "MAX_SIGNATURES", 2)
    project.runpytest_inprocess(ZOO, "--headswap-checks=metadata", TWO)
    project.runpytest_inprocess(ZOO, "--headswap-checks=state_dict", TWO)
    project.runpytest_inprocess(ZOO, "--headswap-checks=metadata", "--headswap-models=doubled,beta*")
    project.runpytest_inprocess(ZOO, "--headswap-checks=round_trip", TWO)
    assert [list(models) for models in _cached(project).values()] == [
        ["alpha", "lonely"],
        ["beta.v1_5", "doubled", "alpha"],
    ]


def test_with_the_cache_disabled_nothing_is_cached_and_nothing_fails(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha", "-p", "no:cacheprovider")
    assert result.ret == 0
    assert not (project.path / ".pytest_cache").exists()


@pytest.mark.parametrize("text", ["", "7", '"7"', '"{}"', '"{\\"a"', "[1]", '"[1]"'])
def test_a_malformed_cache_is_replaced(project: pytest.Pytester, text: str) -> None:
    path = project.path / ".pytest_cache" / "v" / "headswap" / "costs" / "testzoo"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha").ret == 0
    assert len(_cached(project)) == 1


def test_malformed_costs_in_the_cache_are_replaced(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha")
    path = project.path / ".pytest_cache" / "v" / "headswap" / "costs" / "testzoo"
    path.write_text(path.read_text().replace("[", "[null,"))
    assert project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha").ret == 0
    ((_, models),) = _cached(project).items()
    assert len(models["alpha"]) == 2


def test_the_costs_of_a_zoo_file_stay_inside_the_cache(project: pytest.Pytester) -> None:
    code = "import torch\nZOO = {'ä': lambda num_classes=3: torch.nn.Linear(4, num_classes)}\n"
    (project.path / "zoo.py").write_text(code)
    result = project.runpytest_inprocess(f"--headswap-zoo={project.path}/zoo.py:ZOO", "--headswap-checks=metadata")
    assert result.ret == 0
    (path,) = (project.path / ".pytest_cache" / "v" / "headswap" / "costs").iterdir()
    assert re.fullmatch("[0-9a-f]{16}", path.name)


def test_collect_only_stores_no_costs(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, "--collect-only")
    assert not (project.path / ".pytest_cache" / "v" / "headswap").exists()


def test_shards_do_not_depend_on_stored_costs(project: pytest.Pytester) -> None:
    shard = [ZOO, "--headswap-checks=metadata", "--headswap-shard=1/2", "--collect-only", "-q"]
    before = project.runpytest_inprocess(*shard).outlines
    models = {name: [1000.0 if name == "alpha" else 0.1, 1] for name in ("alpha", "beta.v1_5", "lonely", "doubled")}
    path = project.path / ".pytest_cache" / "v" / "headswap" / "costs" / "testzoo"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(json.dumps({"testlib 1.2, auto, auto, metadata": models})))
    after = project.runpytest_inprocess(*shard).outlines
    told = [line for line in before if "::" in line]
    assert told
    assert told == [line for line in after if "::" in line]


def test_the_cache_can_be_anywhere(project: pytest.Pytester, tmp_path: Path) -> None:
    project.makeini(f"[pytest]\ncache_dir = {tmp_path}/elsewhere\n")
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha")
    assert (tmp_path / "elsewhere" / "v" / "headswap" / "costs" / "testzoo").is_file()
