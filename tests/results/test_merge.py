"""Shards are merged only if they are disjoint and complete parts of one run. Every problem is named."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_headswap.results import JournalError, JournalHeader, JournalWriter, Result, read_journal
from pytest_headswap.results.completeness import missing_sentences
from pytest_headswap.results.merge import Merged, merge, shard_options
from pytest_headswap.results.shard_journals import MergeError

ZOO = ("a", "b", "c", "d", "e")
PARTS = {1: ("b", "d"), 2: ("a", "e"), 3: ("c",)}
OPTIONS = {"zoo": ["mine"], "checks": ["y", "x"], "num_classes": 7}
ALL = [("mine", model, check) for model in ZOO for check in ("y", "x")]

Change = Callable[[JournalHeader, list[Result]], tuple[JournalHeader, list[Result]]]


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Return the report folders of three machines that shared a zoo of five models."""
    for number, names in PARTS.items():
        options = {**OPTIONS, **shard_options(f"{number}/3", {"mine": names}, {"mine": ZOO})}
        header = JournalHeader(
            {"torch": "2.8", "lib": "1"}, options, python=f"3.{9 + number}", platform="Linux", started=f"2026-0{number}"
        )
        with JournalWriter(tmp_path / f"s{number}", header) as writer:
            for name in names:
                for check in ("y", "x"):
                    writer.write(Result("mine", name, check, "failed" if name == "e" else "passed"))
    return [tmp_path / f"s{number}" for number in PARTS]


def _change(folder: Path, change: Change) -> None:
    header, results = change(*read_journal(folder))
    with JournalWriter(folder, header) as writer:
        for result in results:
            writer.write(result)


def _with_options(**changes: Any) -> Change:
    return lambda header, results: (replace(header, options={**header.options, **changes}), results)


def _problems(folders: list[Path], **options: bool) -> str:
    with pytest.raises(MergeError) as error_info:
        merge(folders, **options)
    return "\n".join(error_info.value.problems)


def _keys(merged: Merged) -> list[tuple[str, str, str]]:
    return [(result.zoo, result.model, result.check) for result in merged.read()]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_merged_shards_are_the_run_of_one_machine_in_its_order(
    shards: list[Path], tmp_path: Path, order: tuple[int, ...]
) -> None:
    merged = merge([shards[index] for index in order])
    assert merged.missing == ()
    assert _keys(merged) == ALL
    header, results = read_journal(merged.write(tmp_path / "out"))
    assert results == list(merged.read())
    assert header.options == OPTIONS, "as those of a run on one machine"
    assert header.versions == {"torch": "2.8", "lib": "1"}
    assert (header.python, header.platform, header.started) == ("3.10, 3.11, 3.12", "Linux", "2026-01")
    assert header.merged["complete"] is True
    assert [machine["shard"] for machine in header.merged["machines"]] == ["1/3", "2/3", "3/3"]
    assert [machine["python"] for machine in header.merged["machines"]] == ["3.10", "3.11", "3.12"]
    assert header.merged["selection"]["mine"]["models"] == 5


def test_journals_can_be_given_instead_of_their_folders(shards: list[Path]) -> None:
    assert _keys(merge([folder / "results.jsonl" for folder in shards])) == ALL


def test_a_shard_without_models_is_merged(shards: list[Path], tmp_path: Path) -> None:
    for folder in shards:
        shard = f"{folder.name[1]}/4"
        _change(folder, _with_options(shard=shard))
    header, _ = read_journal(shards[0])
    empty = {**OPTIONS, **shard_options("4/4", {"mine": ()}, {"mine": ZOO})}
    JournalWriter(tmp_path / "s4", replace(header, options=empty)).close()
    assert _keys(merge([*shards, tmp_path / "s4"])) == ALL
    assert _problems(shards) == "shard 4/4 is missing"


def test_a_missing_shard_is_named(shards: list[Path]) -> None:
    assert _problems(shards[1:]) == "shard 1/3 is missing"
    assert _problems(shards[1:2]) == "shard 1/3 is missing\nshard 3/3 is missing"


def test_missing_results_are_named(shards: list[Path]) -> None:
    _change(shards[1], lambda header, results: (header, results[:-1]))
    assert _problems(shards) == f"shard 2/3 ({shards[1]}) lacks 1 result: mine::e::x"
    _change(shards[0], lambda header, results: (header, []))
    named = "mine::b::y, mine::b::x, mine::d::y, mine::d::x"
    assert f"shard 1/3 ({shards[0]}) lacks 4 results: {named}" in _problems(shards)


def test_the_first_of_many_missing_results_are_named(shards: list[Path]) -> None:
    names = [f"n{number}" for number in range(50)]
    options = shard_options("1/3", {"mine": names}, {"mine": names})
    _change(shards[0], lambda header, _: (replace(header, options={**OPTIONS, **options}), []))
    named = "mine::n0::y, mine::n0::x, mine::n1::y, mine::n1::x, mine::n2::y and 95 more"
    assert f"lacks 100 results: {named}" in _problems(shards[:1])


def test_the_digest_detects_a_model_that_no_shard_has(shards: list[Path]) -> None:
    _change(shards[1], _with_options(part={"mine": ["a"]}))
    _change(shards[1], lambda header, results: (header, [result for result in results if result.model == "a"]))
    assert _problems(shards) == "the shards have 4 models of mine, which are not the 5 that were selected"


def test_the_digest_detects_a_model_replaced_by_another(shards: list[Path]) -> None:
    _change(shards[1], _with_options(part={"mine": ["a", "z"]}))
    _change(
        shards[1],
        lambda header, results: (header, [replace(item, model=item.model.replace("e", "z")) for item in results]),
    )
    assert _problems(shards) == "the shards have 5 models of mine, which are not the 5 that were selected"


def test_a_shard_given_twice_is_refused_even_if_others_may_be_missing(shards: list[Path]) -> None:
    for allow_missing in (False, True):
        message = _problems([*shards, shards[0]], allow_missing=allow_missing)
        assert message == f"shard 1/3 was given 2 times: {shards[0]} and {shards[0]}"


def test_a_repeated_result_is_named(shards: list[Path]) -> None:
    _change(shards[2], lambda header, results: (header, [*results, results[0]]))
    assert _problems(shards) == f"shard 3/3 ({shards[2]}) repeats 1 result: mine::c::y"


def test_a_model_in_two_shards_is_named(shards: list[Path]) -> None:
    _change(shards[2], _with_options(part={"mine": ["c", "a"]}))
    assert _problems(shards) == "several shards have 1 model: mine::a"


def test_an_unselected_result_is_named(shards: list[Path]) -> None:
    _change(shards[2], lambda header, results: (header, [*results, Result("other", "c", "z", "passed")]))
    assert _problems(shards) == f"shard 3/3 ({shards[2]}) holds 1 result that it did not select: other::c::z"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda header, results: (replace(header, versions={"torch": "2.9", "lib": "1"}), results),
            "torch: '2.9' here",
        ),
        (lambda header, results: (replace(header, versions={"torch": "2.8"}), results), "lib: None here, '1' there"),
        (_with_options(num_classes=3), "num_classes: 3 here, 7 there"),
        (_with_options(evidence="numeric"), "evidence: 'numeric' here, None there"),
        (_with_options(selection={"mine": {"models": 5, "digest": "0"}}), "other models were selected"),
        (_with_options(shard="2/4"), "are shards of different runs: their counts differ"),
    ],
)
def test_shards_of_different_runs_are_refused_even_if_others_may_be_missing(
    shards: list[Path], change: Change, message: str
) -> None:
    _change(shards[1], change)
    for allow_missing in (False, True):
        assert message in _problems(shards, allow_missing=allow_missing)


def _with_code(**code: str) -> Change:
    return lambda header, results: (replace(header, code={"mine": code}), results)


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ({"models.py": "2", "lib": "1.0"}, "models.py"),
        ({"models.py": "1", "lib": "1.1"}, "lib"),
        ({"models.py": "2", "layers.py": "3"}, "models.py"),
    ],
)
def test_shards_whose_models_come_from_other_code_are_refused(
    shards: list[Path], code: dict[str, str], named: str
) -> None:
    for folder in shards[:2]:
        _change(folder, _with_code(**{"models.py": "1", "lib": "1.0"}))
    _change(shards[2], _with_code(**code))
    problem = f"shard 3/3 ({shards[2]}) has other code of mine than shard 1/3 ({shards[0]}): {named}"
    assert _problems(shards) == problem


def test_a_merged_journal_keeps_the_code_of_the_models_of_each_shard(shards: list[Path], tmp_path: Path) -> None:
    for folder, name in zip(shards[1:], ("one.py", "two.py"), strict=True):  # an older version states no code
        _change(folder, _with_code(**{"models.py": "1", name: "2"}))
    header, _ = read_journal(merge(shards).write(tmp_path / "merged"))
    assert header.code == {"mine": {"models.py": "1", "one.py": "2", "two.py": "2"}}


def test_the_journal_of_a_run_on_one_machine_is_not_a_shard(shards: list[Path]) -> None:
    _change(shards[1], lambda header, results: (replace(header, options=OPTIONS), results))
    assert (
        _problems(shards) == f"{shards[1]} is not the journal of a shard: make it with --headswap-shard "
        "(Object missing required field `shard`)"
    )


def test_an_incomplete_set_of_shards_is_merged_on_request_and_states_what_is_missing(
    shards: list[Path], tmp_path: Path
) -> None:
    _change(shards[1], lambda header, results: (header, results[:-1]))
    (tmp_path / "empty").mkdir()
    merged = merge([shards[1], shards[0], tmp_path / "empty"], allow_missing=True)
    assert merged.count == len(list(merged.read())) == 7
    assert "cannot read the journal" in merged.missing[0]
    assert merged.missing[1:] == ("shard 3/3 is missing", f"shard 2/3 ({shards[1]}) lacks 1 result: mine::e::x")
    header, _ = read_journal(merged.write(tmp_path / "out"))
    assert header.merged["complete"] is False
    assert tuple(header.merged["missing"]) == merged.missing


@pytest.mark.parametrize("allow_missing", [False, True])
def test_a_merge_needs_at_least_one_journal(tmp_path: Path, allow_missing: bool) -> None:
    assert "cannot read the journal" in _problems([tmp_path / "nowhere"], allow_missing=allow_missing)


def test_the_devices_of_all_machines_are_named(shards: list[Path]) -> None:
    for folder, devices in zip(shards, (["cuda:0 (A)", "cuda:1 (A)"], ["cuda:0 (A)"], []), strict=True):
        _change(folder, lambda header, results, devices=devices: (replace(header, devices=devices), results))  # type: ignore[misc]
    header = merge(shards).header
    assert header.devices == ["cuda:0 (A)", "cuda:1 (A)"]
    assert [machine.get("devices") for machine in header.merged["machines"]] == [
        "cuda:0 (A), cuda:1 (A)",
        "cuda:0 (A)",
        None,
    ]


def _many_shards(folder: Path, count: int, models: int, message: str = "") -> list[Path]:
    """Write the journals of shards with this many models each, in an order other than that of a merged journal."""
    parts = {number: [f"m{model:03}-{number}" for model in range(models)] for number in range(1, count + 1)}
    zoo = [name for part in parts.values() for name in part]
    for number, names in parts.items():
        options = {**OPTIONS, **shard_options(f"{number}/{count}", {"mine": names}, {"mine": zoo})}
        with JournalWriter(folder / f"s{number}", JournalHeader({"torch": "2.8"}, options)) as writer:
            for name in reversed(names):
                for check in ("x", "y"):
                    writer.write(Result("mine", name, check, "passed", message=message))
    return [folder / f"s{number}" for number in parts]


def test_merging_takes_much_less_memory_than_the_results(tmp_path: Path) -> None:
    folders = _many_shards(tmp_path, 4, 100, message="x" * 10_000)
    tracemalloc.start()
    try:
        merged = merge(folders)
        merged.write(tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert merged.count == 800
    assert (tmp_path / "out" / "results.jsonl").stat().st_size > 8_000_000
    assert peak < 2_500_000
    assert [name for _, name, _ in _keys(merged)] == sorted(name for _, name, _ in _keys(merged))


MERGE_WITH_FEW_FILES = """
import resource, sys
from pathlib import Path
from pytest_headswap.results.merge import merge

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
folder = Path(sys.argv[1])
merge(sorted(folder.glob("s*"))).write(folder / "out")
"""


def test_more_shards_are_merged_than_files_can_be_open(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="Windows does not limit open files in this way")
    _many_shards(tmp_path, 80, 1)
    subprocess.run([sys.executable, "-c", MERGE_WITH_FEW_FILES, str(tmp_path)], check=True)
    assert len(read_journal(tmp_path / "out")[1]) == 160


def test_a_journal_that_changes_while_it_is_merged_is_an_error(shards: list[Path], tmp_path: Path) -> None:
    merged = merge(shards)
    _change(shards[1], lambda header, results: (header, results[::-1][:1]))
    with pytest.raises(JournalError, match=r"results\.jsonl, byte \d+: not a result"):
        merged.write(tmp_path / "out")
    header, results = read_journal(tmp_path / "out")
    assert len(results) < 10
    assert missing_sentences(header, results) == (
        f"the merge was interrupted before it wrote {10 - len(results)} results",
    )


@pytest.mark.parametrize("line", [b"[1, 2]", b"7", b'"zoo"', b'{"zoo": [1], "model": "a"}', b"null"])
def test_a_line_that_is_not_a_result_makes_its_shard_unreadable(shards: list[Path], line: bytes) -> None:
    with (shards[1] / "results.jsonl").open("ab") as file:
        file.write(line + b"\n")
    assert "results.jsonl, line 6: not a result" in _problems(shards)
