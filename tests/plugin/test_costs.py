"""The shipped costs, and the script that writes them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from pytest_headswap.plugin.planning import costs
from pytest_headswap.plugin.planning.costs import Cost, Costs, shipped_costs
from pytest_headswap.results import JournalHeader, JournalWriter, Outcome, Result

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "measure_costs.py"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the costs of one zoo, which replaces the shipped folder."""
    monkeypatch.setattr(costs, "FOLDER", tmp_path)
    data = {"versions": {"lib": "1.0"}, "models": {"a": [1, 100], "b": [9.5, None], "c": [2, 300]}}
    (tmp_path / "mine.json").write_text(json.dumps(data), encoding="utf-8")
    return tmp_path


def test_shipped_costs_are_found_by_the_name_of_the_zoo(folder: Path) -> None:
    assert shipped_costs("mine").models == {"a": Cost(1, 100), "b": Cost(9.5), "c": Cost(2, 300)}


def test_an_unmeasured_model_takes_the_median_time_and_an_unknown_amount_of_memory(folder: Path) -> None:
    assert shipped_costs("mine")["new"] == Cost(2)
    assert shipped_costs("unknown")["new"] == Costs()["new"] == Cost(1.0)


@pytest.mark.parametrize("name", ["../mine", "mine.json", "package.module:ATTR", "mine.py:ZOO", "", "x/../mine"])
def test_a_zoo_named_by_a_file_path_has_no_shipped_costs(folder: Path, name: str) -> None:
    (folder / "x").mkdir()
    assert shipped_costs(name).models == {}


@pytest.mark.parametrize("path", sorted(costs.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_each_shipped_file_is_well_formed_and_small(path: Path) -> None:
    versions = json.loads(path.read_text(encoding="utf-8"))["versions"]
    assert {"torch", path.stem} <= versions.keys(), "it states the versions that were measured"
    found = shipped_costs(path.stem)
    assert list(found.models) == sorted(found.models)
    assert all(cost.seconds > 0 for cost in found.models.values())
    unmeasured = {name for name, cost in found.models.items() if not cost.peak_mb}
    assert all(name.endswith("_enc") for name in unmeasured), "encoders have no head, and are skipped"
    assert path.stat().st_size < 60 * len(found.models)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("measure_costs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _journal(folder: Path, *results: tuple[str, str, str, Outcome, float, float | None]) -> Path:
    header = JournalHeader({"pytest": "9", "lib": "1.0"}, {"checks": ["x", "y"]})
    with JournalWriter(folder, header) as writer:
        for zoo, model, check, outcome, seconds, peak in results:
            writer.write(Result(zoo, model, check, outcome, seconds=seconds, peak_memory_mb=peak))
    return folder


def test_the_script_sums_the_checks_of_each_model_and_skips_incomplete_models(
    tmp_path: Path, folder: Path, script: ModuleType
) -> None:
    journal = _journal(
        tmp_path / "run",
        ("mine", "b", "x", "passed", 1.5, 100),
        ("mine", "b", "y", "failed", 0.254, 120.4),
        ("mine", "a", "x", "skipped", 0.5, None),
        ("mine", "a", "y", "skipped", 0.5, None),
        ("mine", "cut", "x", "passed", 9, 130),
        ("mine", "dead", "x", "crashed", 9, 130),
        ("mine", "dead", "y", "passed", 9, 130),
    )
    (path,) = script.measure([journal], folder)
    assert path == folder / "mine.json"
    assert json.loads(path.read_text()) == {"versions": {"lib": "1.0"}, "models": {"a": [1.0, None], "b": [1.75, 120]}}


def test_the_last_journal_that_contains_a_model_counts(tmp_path: Path, folder: Path, script: ModuleType) -> None:
    def run(name: str, model: str, seconds: float) -> Path:
        both = [("mine", model, check, "passed", seconds, 1.0) for check in ("x", "y")]
        return _journal(tmp_path / name, *both)  # type: ignore[arg-type]

    script.measure([run("1", "a", 1), run("2", "b", 2), run("3", "a", 3)], folder)
    assert {name: cost.seconds for name, cost in shipped_costs("mine").models.items()} == {"a": 6, "b": 4}
