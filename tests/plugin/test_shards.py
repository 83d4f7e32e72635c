"""`--headswap-shard` runs one shard of the models. Machines agree on the shards, which cover all models."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_headswap.cli.main import main
from pytest_headswap.results import Result, read_journal

Journal = Callable[..., dict[str, Result]]

ZOO = "--headswap-zoo=testzoo"
CHECKS = "--headswap-checks=output_shape,metadata"


def _models(results: dict[str, Result]) -> set[str]:
    return {result.model for result in results.values()}


def test_the_shards_are_disjoint_and_merge_into_the_results_of_one_machine(
    project: pytest.Pytester, journal: Journal, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project.runpytest_inprocess(ZOO, CHECKS)
    whole_header, whole = read_journal(project.path / "headswap-report")
    folders = [project.path / f"shard-{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, start=1):
        project.runpytest_inprocess(ZOO, CHECKS, f"--headswap-shard={number}/3", f"--headswap-report={folder}")
    parts = [_models(journal(folder.name)) for folder in folders]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 8
    assert all(parts)

    out: Path = tmp_path_factory.mktemp("merged")
    assert main(["merge", str(out), *map(str, folders)]) == 0
    header, merged = read_journal(out)
    assert header.options == whole_header.options
    assert [(item.nodeid, item.outcome, item.message) for item in merged] == sorted(
        ((item.nodeid, item.outcome, item.message) for item in whole), key=lambda expected: expected[0].split("::")[:2]
    )


def test_the_header_names_the_shard_and_counts_its_models(project: pytest.Pytester, journal: Journal) -> None:
    flags = [ZOO, "--headswap-checks=metadata", "--headswap-models=!alpha", "--headswap-shard=2/2"]
    result = project.runpytest_inprocess(*flags)
    count = len(_models(journal()))
    result.stdout.fnmatch_lines([f"headswap: testzoo (7 of 8 models, shard 2/2: {count}); metadata; 7 classes"])


def test_only_the_options_of_the_journal_contain_the_shard(project: pytest.Pytester, journal: Journal) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-shard=1/2")
    options = read_journal(project.path / "headswap-report")[0].options
    assert options["shard"] == "1/2"
    assert options["selection"]["testzoo"]["models"] == 8
    assert set(options["part"]["testzoo"]) == _models(journal())
    assert not [item for item in journal().values() if "shard" in f"{item.repro} {item.nodeid} {item.message}"]
    project.runpytest_inprocess(ZOO, CHECKS)
    assert not {"shard", "selection", "part"} & read_journal(project.path / "headswap-report")[0].options.keys()


def test_the_command_line_overrides_the_shard_in_the_ini_file(project: pytest.Pytester, journal: Journal) -> None:
    project.makeini("[pytest]\nheadswap_shard = 1/2\n")
    project.runpytest_inprocess(ZOO, CHECKS)
    first = _models(journal())
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-shard=2/2")
    assert _models(journal()).isdisjoint(first)
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-shard=")
    assert len(_models(journal())) == 8


def test_each_zoo_is_split_separately(project: pytest.Pytester, journal: Journal) -> None:
    flags = [ZOO, "--headswap-checks=metadata", "--headswap-shard=1/3"]
    project.runpytest_inprocess(*flags)
    alone = _models(journal())
    project.runpytest_inprocess(*flags, "--headswap-zoo=builtin")
    assert {item.model for item in journal().values() if item.zoo == "testzoo"} == alone
    assert 8 <= len([item for item in journal().values() if item.zoo == "builtin"]) <= 15


def test_the_projects_tests_run_on_each_machine(project: pytest.Pytester, journal: Journal) -> None:
    result = project.runpytest_inprocess("--headswap-zoo=testzoo", "--headswap-shard=1/2", CHECKS, "test_own.py", "-v")
    result.stdout.fnmatch_lines(["*test_own.py::test_mine PASSED*"])
    assert 0 < len(_models(journal())) < 8


def test_a_shard_without_a_model_succeeds(project: pytest.Pytester) -> None:
    flags = [ZOO, CHECKS, "--headswap-models=alpha"]
    codes = [project.runpytest_inprocess(*flags, f"--headswap-shard={number}/3").ret for number in (1, 2, 3)]
    assert codes == [pytest.ExitCode.OK] * 3
    project.runpytest_inprocess(*flags, "--headswap-shard=1/1", "-k", "nothing")
    assert project.runpytest_inprocess(*flags, "-k", "nothing").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_xdist_workers_run_the_same_shard(project: pytest.Pytester, journal: Journal) -> None:
    pytest.importorskip("xdist")
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-shard=2/3")
    alone = journal().keys()
    project.runpytest_subprocess(ZOO, CHECKS, "--headswap-shard=2/3", "-n", "2")
    assert journal().keys() == alone
    flags = [ZOO, CHECKS, "--headswap-models=alpha", "-n", "2"]
    codes = [project.runpytest_subprocess(*flags, f"--headswap-shard={number}/2").ret for number in (1, 2)]
    assert codes == [pytest.ExitCode.OK] * 2, "without a model too"


@pytest.mark.parametrize("typed", ["2", "0/3", "a/b", "1/0", "-1/3", "1/3/5", "1.5/3", "٢/٣", "/3", "1/"])
def test_an_invalid_shard_is_refused_with_an_example(project: pytest.Pytester, typed: str) -> None:
    result = project.runpytest_inprocess(ZOO, f"--headswap-shard={typed}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--headswap-shard must be I/N, such as 2/8 *, not '{typed}'"])
    assert not (project.path / "headswap-report").exists()


def test_a_shard_after_the_last_is_refused(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, "--headswap-shard=9/8")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--headswap-shard is '9/8', but the last of 8 parts is 8/8"])
    result = project.runpytest_inprocess(ZOO, "--headswap-shard=1/99999999999")
    result.stderr.fnmatch_lines(["*there can be no more than 10000 parts"])


def test_merge_prints_the_command_for_each_missing_or_incomplete_shard(
    project: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [ZOO, CHECKS, "--headswap-num-classes=3", "--headswap-models=!alpha"]
    folders = [project.path / f"shard-{number}" for number in (1, 2, 3)]
    for number in (1, 2):
        report = f"--headswap-report={folders[number - 1]}"
        project.runpytest_inprocess(*flags, f"--headswap-shard={number}/3", report)
    journal_file = folders[1] / "results.jsonl"
    journal_file.write_text("".join(journal_file.read_text().splitlines(keepends=True)[:-1]))
    arguments = ["merge", "--missing", str(project.path / "whole"), *map(str, folders)]
    capsys.readouterr()
    assert main(arguments) == 1
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [command[-1] for command in commands] == ["--headswap-resume", "--headswap-num-classes=3"]
    for command in commands:
        project.runpytest_inprocess(*command[1:])
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""
    assert not (project.path / "whole").exists()
    assert main(["merge", *arguments[2:]]) == 0


def test_merge_cannot_tell_what_is_missing_without_a_journal(tmp_path: Path) -> None:
    assert main(["merge", "--missing", str(tmp_path / "whole"), str(tmp_path / "nowhere")]) == 1


@pytest.mark.parametrize("flags", [[], ["-n1"]], ids=["alone", "with xdist"])
def test_auto_reads_the_shard_of_this_machine(
    project: pytest.Pytester, journal: Journal, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    for name in ("BUILDKITE_PARALLEL_JOB", "CIRCLE_NODE_INDEX", "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CI_NODE_INDEX", "2")
    monkeypatch.setenv("CI_NODE_TOTAL", "3")
    project.runpytest_subprocess(ZOO, CHECKS, "--headswap-shard=auto", *flags)
    header, _ = read_journal(project.path / "headswap-report")
    assert header.options["shard"] == "2/3"
    monkeypatch.delenv("CI_NODE_INDEX")
    result = project.runpytest_subprocess(ZOO, CHECKS, "--headswap-shard=auto", *flags)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --headswap-shard=auto: none of these variables is set: *"])
