"""The synthetic journals of the benchmarks are complete shards of one run, with results of every kind."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from pytest_headswap.results import OUTCOMES, JournalHeader, read_journal
from pytest_headswap.results.merge import merge
from pytest_headswap.results.result import FAILURES
from tests.journals import ANATOMY, CHECKS, result, write_journal

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "synthetic_shards.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("synthetic_shards", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a journal of three models, one of which has no head."""
    results = [result("model_a", check, anatomy=ANATOMY if check == CHECKS[0] else None) for check in CHECKS]
    results += [result("model_b.in1k", check) for check in CHECKS]
    results += [result("model_c", check, "skipped", reason="declared_headless") for check in CHECKS]
    header = JournalHeader({"torch": "2.9"}, {"checks": list(CHECKS), "zoo": ["timm"]})
    return write_journal(tmp_path_factory.mktemp("real"), results, header)


def test_the_shards_are_one_complete_run(script: ModuleType, journal: Path, tmp_path: Path) -> None:
    folders = script.write_shards(tmp_path, journal, 1000, 3)
    assert len(folders) == 3
    merged = merge(folders)
    assert merged.missing == ()
    assert merged.count == 1000 * len(CHECKS)
    results = list(merged.read())
    assert len({item.model for item in results}) == 1000
    assert {item.model.rpartition(".")[0] for item in results} == {"model_a", "model_b.in1k", "model_c"}
    assert all(f"--headswap-models='{item.model}'" in item.repro for item in results)
    outcomes = Counter(item.outcome for item in results)
    assert set(outcomes) <= set(OUTCOMES)
    assert 4 < len({item.model for item in results if item.outcome in FAILURES}) < 40
    assert outcomes["skipped"] > 2000


def test_the_same_shards_are_written_again(script: ModuleType, journal: Path, tmp_path: Path) -> None:
    first = script.write_shards(tmp_path / "first", journal, 20, 2)
    again = script.write_shards(tmp_path / "again", journal, 20, 2)
    assert [read_journal(one) for one in first] == [read_journal(other) for other in again]


def test_a_shard_writes_its_models_in_the_order_in_which_they_end(
    script: ModuleType, journal: Path, tmp_path: Path
) -> None:
    (folder,) = script.write_shards(tmp_path, journal, 100, 1)
    names = list(dict.fromkeys(item.model for item in read_journal(folder)[1]))
    assert names != sorted(names)
