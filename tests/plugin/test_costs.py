"""The shipped costs, and the script that writes them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from pytest_headswap.plugin.planning import costs
from pytest_headswap.plugin.planning.costs import Cost, Costs, expected_costs
from pytest_headswap.results import JournalHeader, JournalWriter, Outcome, Result

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "measure_costs.py"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the costs of a zoo, in place of the one that is shipped."""
    monkeypatch.setattr(costs, "FOLDER", tmp_path)
    data = {"versions": {"lib": "1.0"}, "models": {"a": [1, 100], "b": [9.5, None], "c": [2, 300]}}
    (tmp_path / "mine.json").write_text(json.dumps(data), encoding="utf-8")
    return tmp_path


def test_shipped_costs_are_found_by_the_name_of_the_zoo(folder: Path) -> None:
    found = expected_costs("mine")
    assert found.versions == {"lib": "1.0"}
    assert found.models == {"a": Cost(1, 100), "b": Cost(9.5), "c": Cost(2, 300)}


def test_an_unmeasured_model_costs_the_median(folder: Path) -> None:
    assert expected_costs("mine")["new"] == Cost(2, 200)
    assert expected_costs("unknown")["new"] == Costs()["new"] == Cost(1.0)


def test_measured_costs_override_shipped_ones(folder: Path) -> None:
    found = expected_costs("mine", {"a": Cost(50, 7), "new": Cost(3)})
    assert (found["a"], found["b"], found["new"]) == (Cost(50, 7), Cost(9.5), Cost(3))
    assert expected_costs("unknown", {"new": Cost(3)})["other"] == Cost(3)


def test_shipped_costs_are_scaled_to_this_machine_by_shared_models(folder: Path) -> None:
    data = {"versions": {"lib": "1.0"}, "models": {f"m{number}": [number + 1.0, 100] for number in range(20)}}
    (folder / "mine.json").write_text(json.dumps(data), encoding="utf-8")
    learnt = {f"m{number}": Cost((number + 1) / 2) for number in range(4)}
    assert expected_costs("mine", learnt)["m19"].seconds == 20, "four say too little"
    assert expected_costs("mine", {**learnt, "m4": Cost(100)})["m19"].seconds == 10, "one that differs changes nothing"
    assert expected_costs("mine", {**learnt, "other": Cost(0.1)})["m19"].seconds == 20, "one has to know both"


@pytest.mark.parametrize("name", ["../mine", "mine.json", "package.module:ATTR", "mine.py:ZOO", "", "x/../mine"])
def test_a_file_name_never_selects_shipped_costs(folder: Path, name: str) -> None:
    (folder / "x").mkdir()
    assert expected_costs(name).models == {}


def test_costs_are_rounded_to_their_precision() -> None:
    assert Cost(1.234, 100.4).rounded() == Cost(1.23, 100)
    assert Cost(0.0).rounded() == Cost(0.0)


@pytest.mark.parametrize(
    "models",
    [
        *("null", "[]", '{"a": 1}', '{"a": []}', '{"a": ["1", 2]}', '{"a": [1, "2"]}'),
        *('{"a": [-1, 2]}', '{"a": [1, -2]}', '{"a": [1e999, 2]}', '{"a": [NaN, 2]}'),
    ],
)
def test_a_malformed_file_of_costs_is_refused(folder: Path, models: str) -> None:
    text = '{"versions": {}, "models": %s}'
    (folder / "mine.json").write_text(text % '{"a": [1, 2]}', encoding="utf-8")
    assert expected_costs("mine").models == {"a": Cost(1, 2)}
    (folder / "mine.json").write_text(text % models, encoding="utf-8")
    with pytest.raises(msgspec.DecodeError):
        expected_costs("mine")


@pytest.mark.parametrize("path", sorted(costs.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_each_shipped_file_is_well_formed_and_small(path: Path) -> None:
    found = expected_costs(path.stem)
    assert {"torch", path.stem} <= found.versions.keys(), "it says what it was measured with"
    assert list(found.models) == sorted(found.models)
    assert all(cost.seconds > 0 for cost in found.models.values())
    unmeasured = {name for name, cost in found.models.items() if not cost.peak_mb}
    assert all(name.endswith("_enc") for name in unmeasured), "encoders have no head, and are skipped"
    assert path.stat().st_size < 60 * len(found.models)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script, as a module."""
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


def test_the_script_sums_the_checks_of_each_complete_model(tmp_path: Path, folder: Path, script: ModuleType) -> None:
    journal = _journal(
        tmp_path / "run",
        ("mine", "b", "x", "passed", 1.5, 100),
        ("mine", "b", "y", "failed", 0.25, 120),
        ("mine", "a", "x", "skipped", 0.5, None),
        ("mine", "a", "y", "skipped", 0.5, None),
        ("mine", "cut", "x", "passed", 9, 130),
        ("mine", "dead", "x", "crashed", 9, 130),
        ("mine", "dead", "y", "passed", 9, 130),
    )
    (path,) = script.learn([journal], folder)
    assert path == folder / "mine.json"
    assert json.loads(path.read_text()) == {"versions": {"lib": "1.0"}, "models": {"a": [1.0, None], "b": [1.75, 120]}}


def test_the_last_journal_that_contains_a_model_counts(tmp_path: Path, folder: Path, script: ModuleType) -> None:
    def run(name: str, model: str, seconds: float) -> Path:
        both = [("mine", model, check, "passed", seconds, 1.0) for check in ("x", "y")]
        return _journal(tmp_path / name, *both)  # type: ignore[arg-type]

    script.learn([run("1", "a", 1), run("2", "b", 2), run("3", "a", 3)], folder)
    assert {name: cost.seconds for name, cost in expected_costs("mine").models.items()} == {"a": 6, "b": 4}
