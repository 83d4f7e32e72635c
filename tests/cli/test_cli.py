"""`headswap explain` shows where the head is and why. `report`, `merge` and `compare` read journals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_headswap import ModelSpec, Zoo, __version__, find_heads
from pytest_headswap.cli.main import main
from pytest_headswap.results import JournalHeader, JournalWriter, Outcome, Result, read_journal
from pytest_headswap.results.merge import shard_options
from pytest_headswap.zoo import registry


class Distilled(nn.Module):
    """A model with two heads, whose outputs are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(8, 16)
        self.head = nn.Linear(16, 10)
        self.head_dist = nn.Linear(16, 10)
        self.same = self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.backbone(x).relu()
        return ((self.head(features) + self.head_dist(features)) / 2).softmax(1)  # type: ignore[no-any-return]


class Doubled(nn.Module):
    """A model without a head."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Encoder(nn.Module):
    """A model with layers but without a head: the output of the last layer is added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.layer = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.stem(x)
        return features + self.layer(features)  # type: ignore[no-any-return]


def _unbuildable() -> nn.Module:
    raise ValueError("no such depth")


@pytest.fixture(autouse=True)
def _zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(registry, "_LOADED", {})
    monkeypatch.setenv("COLUMNS", "60")  # a narrow terminal must not wrap long lines
    specs = {
        "distilled": ModelSpec(
            "distilled",
            Distilled,
            lambda _: torch.zeros(2, 8),
            metadata_notes=lambda _, heads: (f"the zoo knows {len(heads)} heads",),
        ),
        "doubled": ModelSpec("doubled", Doubled, lambda _: torch.zeros(2, 8)),
        "encoder": ModelSpec("encoder", Encoder, lambda _: torch.zeros(2, 8)),
        "wrong:inputs": ModelSpec("wrong:inputs", Distilled, lambda _: torch.zeros(2, 9)),
        "unbuildable": ModelSpec("unbuildable", _unbuildable),
    }
    registry.register("testzoo", lambda: Zoo("testzoo", tuple(specs), specs.__getitem__))


Output = pytest.CaptureFixture[str]


def test_explain_prints_everything_known_about_each_head(capsys: Output) -> None:
    assert main(["explain", "testzoo:distilled"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "testzoo:distilled: 2 heads, found by an abstract run on the meta device"
    first = lines[lines.index("head") : lines.index("head_dist")]
    assert "  aliases          same" in first
    assert "  kind             linear, 16 -> 10" in first
    assert "  role             main" in first
    assert "  class dimension  1" in first
    assert "  activation       softmax" in first
    assert "  outputs          output" in first
    assert "  path             backbone -> relu -> head -> add, div -> softmax -> output" in first
    assert any(line.startswith("  tensors          head.weight, head.bias") for line in first)
    assert any(line.startswith("  evidence         ") for line in first)
    assert "  role             distillation" in lines[lines.index("head_dist") :]


def test_explain_prints_what_printing_the_heads_does(capsys: Output) -> None:
    main(["explain", "testzoo:distilled"])
    heads = find_heads(registry.load_zoo("testzoo")["distilled"].build(), torch.zeros(2, 8))
    printed = capsys.readouterr().out
    assert printed.startswith(f"testzoo:distilled: {heads}")


def test_explain_prints_the_notes_of_the_zoo(capsys: Output) -> None:
    main(["explain", "testzoo:distilled"])
    assert "Notes\n  the zoo knows 2 heads\n" in capsys.readouterr().out


def test_explain_prints_rejected_candidates_with_reasons(capsys: Output) -> None:
    main(["explain", "testzoo:distilled"])
    out = capsys.readouterr().out
    assert "Rejected\n  backbone: " in out


def test_explain_gives_the_reason_if_a_model_has_no_head(capsys: Output) -> None:
    assert main(["explain", "testzoo:encoder"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "headswap: testzoo:encoder: [" in captured.err
    assert "Rejected\n  " in captured.err
    assert "layer" in captured.err


def test_explain_gives_the_reason_if_a_model_has_no_layers(capsys: Output) -> None:
    assert main(["explain", "testzoo:doubled"]) == 1
    assert "headswap: testzoo:doubled: [output_from_input] " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "code", "message"),
    [
        ("testzo:distilled", 2, "unknown zoo 'testzo': did you mean testzoo?"),
        ("testzoo:destilled", 2, "unknown model 'destilled' in zoo 'testzoo': did you mean distilled?"),
        ("testzoo", 2, "'testzoo' is not ZOO:MODEL, such as timm:levit_128"),
        ("testzoo:", 2, "is not ZOO:MODEL"),
        (":distilled", 2, "is not ZOO:MODEL"),
        ("testzoo:wrong:inputs", 1, "on inputs of shape (2, 9)"),
        ("testzoo:unbuildable", 1, "testzoo:unbuildable cannot be built: ValueError: no such depth"),
    ],
)
def test_explain_reports_errors_on_stderr_without_a_traceback(
    capsys: Output, argument: str, code: int, message: str
) -> None:
    assert main(["explain", argument]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_list_zoos_prints_counts_and_what_is_not_installed(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Zoo:
        raise ModuleNotFoundError("No module named 'ghostlib'", name="ghostlib")

    registry.register("ghosts", missing, library="ghostlib")
    for name in ("timm", "torchvision", "transformers"):  # slow to import
        monkeypatch.delitem(registry._ENTRIES, name)
    assert main(["list-zoos"]) == 0
    assert capsys.readouterr().out == (
        "builtin  35 models\n"
        "ghosts   zoo 'ghosts' needs ghostlib, which is not installed: pip install 'pytest-headswap[ghostlib]'\n"
        "testzoo  5 models\n"
    )


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["distilled", "doubled", "encoder", "unbuildable", "wrong:inputs"]),
        (["d*"], ["distilled", "doubled"]),
        (["!d*,!encoder"], ["unbuildable", "wrong:inputs"]),
    ],
)
def test_list_models_prints_the_models_that_globs_select(
    capsys: Output, arguments: list[str], names: list[str]
) -> None:
    assert main(["list-models", "testzoo", *arguments]) == 0
    assert capsys.readouterr().out.splitlines() == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["testzo"], "unknown zoo 'testzo': did you mean testzoo?"),
        (["testzoo", "destilled"], "unknown model 'destilled' in zoo 'testzoo': did you mean distilled?"),
        (["testzoo", "x*"], "no model of zoo 'testzoo' matches 'x*'"),
    ],
)
def test_list_models_suggests_known_names(capsys: Output, arguments: list[str], message: str) -> None:
    assert main(["list-models", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_explain_takes_globs_and_continues_after_an_error(capsys: Output) -> None:
    assert main(["explain", "testzoo:d*"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("testzoo:distilled: 2 heads")
    assert "headswap: testzoo:doubled: [" in captured.err


@pytest.fixture
def only_small_zoos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the zoos that take seconds to import out of a search."""
    for name in ("timm", "torchvision", "transformers"):
        monkeypatch.delitem(registry._ENTRIES, name)


@pytest.mark.usefixtures("only_small_zoos")
@pytest.mark.parametrize("text", ["distilled", "dist[i]lled"])
def test_explain_finds_the_only_zoo_that_has_a_model(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.delitem(registry._ENTRIES, "builtin")
    assert main(["explain", text]) == 0
    assert capsys.readouterr().out.startswith("testzoo:distilled: 2 heads")


@pytest.mark.usefixtures("only_small_zoos")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distilled", "several zoos have 'distilled': use builtin:distilled or testzoo:distilled"),
        ("encodr", "unknown model 'encodr': did you mean encoder"),
    ],
)
def test_explain_says_which_zoos_have_similar_models(capsys: Output, text: str, message: str) -> None:
    assert main(["explain", text]) == 2
    assert message in capsys.readouterr().err


def test_the_version_option_prints_the_version_of_the_package(capsys: Output) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"headswap {__version__}\n"


def test_a_missing_command_is_a_usage_error(capsys: Output) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([])
    assert exit_info.value.code == 2
    assert "usage: headswap" in capsys.readouterr().err


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Return the report folders of two machines with one model each."""
    for number, name in enumerate("ab", start=1):
        options = {"checks": ["x"], **shard_options(f"{number}/2", {"mine": [name]}, {"mine": ["a", "b"]})}
        with JournalWriter(tmp_path / name, JournalHeader({}, options)) as writer:
            writer.write(Result("mine", name, "x", "failed"))
    return [str(tmp_path / name) for name in "ab"]


def test_shards_are_merged_into_one_journal(capsys: Output, shards: list[str], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert main(["merge", str(out), *shards]) == 0, "outcomes do not affect the exit code"
    assert capsys.readouterr().out == f"{out / 'results.jsonl'}: 2 results of 2 models\n"
    header, results = read_journal(out)
    assert header.merged["complete"] is True
    assert [result.model for result in results] == ["a", "b"]


def test_an_incomplete_set_of_shards_is_not_merged(capsys: Output, shards: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["merge", str(out), shards[1]]) == 1
    assert capsys.readouterr() == ("", "headswap: shard 1/2 is missing\n")
    assert not out.exists()


def test_allow_missing_merges_an_incomplete_set_of_shards(capsys: Output, shards: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["merge", str(out), shards[1], "--allow-missing"]) == 0
    assert capsys.readouterr().out == (
        f"{out / 'results.jsonl'}: 1 result of 1 model, incomplete\n  shard 1/2 is missing\n"
    )
    assert read_journal(out)[0].merged["missing"] == ["shard 1/2 is missing"]


def test_a_merge_does_not_overwrite_a_shard(capsys: Output, shards: list[str]) -> None:
    before = Path(shards[0], "results.jsonl").read_text(encoding="utf-8")
    assert main(["merge", f"{shards[0]}/../a", *shards]) == 2
    assert "is one of the journals to merge" in capsys.readouterr().err
    assert Path(shards[0], "results.jsonl").read_text(encoding="utf-8") == before


def test_an_unwritable_output_folder_is_an_error(capsys: Output, shards: list[str], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    assert main(["merge", str(tmp_path / "taken"), *shards]) == 1
    assert "cannot write the report to" in capsys.readouterr().err


def _journal(folder: Path, torch: str = "2.9.1", **outcomes: Outcome) -> str:
    with JournalWriter(folder, JournalHeader({"torch": torch}, {"checks": ["x"]})) as writer:
        for model, outcome in outcomes.items():
            writer.write(Result("mine", model, "x", outcome, seconds=1.0, message="why" if outcome == "failed" else ""))
    return str(folder)


def test_a_report_is_written_next_to_its_journal_by_default(capsys: Output, tmp_path: Path) -> None:
    folder = Path(_journal(tmp_path / "run", a="passed"))
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'index.html'}: 1 architecture\n{folder / 'summary.md'}\n"
    assert main(["report", str(folder / "results.jsonl"), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "index.html").read_bytes() == (folder / "index.html").read_bytes()


def test_a_missing_journal_is_an_error(capsys: Output, tmp_path: Path) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    assert "headswap: cannot read the journal" in capsys.readouterr().err
    (tmp_path / "taken").write_text("", encoding="utf-8")
    assert main(["report", _journal(tmp_path / "run"), "--output", str(tmp_path / "taken")]) == 1
    assert "Choose a folder that can be written" in capsys.readouterr().err


def test_a_merge_also_writes_reports(shards: list[str], tmp_path: Path) -> None:
    assert main(["merge", str(tmp_path / "out"), *shards]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"results.jsonl", "index.html", "summary.md"}


def test_runs_are_merged_by_the_version_of_a_library(capsys: Output, tmp_path: Path) -> None:
    runs = [_journal(tmp_path / torch, torch, a="passed", b="failed") for torch in ("2.4.1", "2.9.1")]
    out = tmp_path / "out"
    assert main(["merge", str(out), *runs, "--by-version-of", "torch"]) == 0
    assert capsys.readouterr().out == f"{out / 'results.jsonl'}: 4 results of 2 models\n"
    assert "torch 2.4.1" in (out / "index.html").read_text(encoding="utf-8")
    assert main(["merge", str(tmp_path / "no"), *runs, "--by-version-of", "jax"]) == 1
    assert "does not state a version of jax" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_merge_does_not_overwrite_a_journal_given_by_another_path(capsys: Output, shards: list[str]) -> None:
    assert main(["merge", shards[0], str(Path(shards[0], "results.jsonl")), shards[1]]) == 2
    assert "is one of the journals to merge" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "code", "message"),
    [
        ({"a": "passed"}, {"a": "passed"}, 0, "1 shared result: nothing changed"),
        ({"a": "passed"}, {"a": "failed"}, 1, "| mine::a::x | passed | failed: why"),
        ({"a": "failed"}, {"a": "passed"}, 0, "| mine::a::x | failed | passed"),
        ({"a": "failed"}, {"a": "failed"}, 0, "nothing changed"),
        ({"a": "passed"}, {"a": "passed", "b": "error"}, 1, "| mine::b::x | none | error"),
    ],
)
def test_compare_exits_with_1_if_a_result_is_broken(
    capsys: Output, tmp_path: Path, old: dict[str, Outcome], new: dict[str, Outcome], code: int, message: str
) -> None:
    assert main(["compare", _journal(tmp_path / "old", **old), _journal(tmp_path / "new", **new)]) == code
    assert message in capsys.readouterr().out


def test_slower_models_count_with_strict_and_from_the_threshold(capsys: Output, tmp_path: Path) -> None:
    old, new = _journal(tmp_path / "old", a="passed"), tmp_path / "new"
    with JournalWriter(new, JournalHeader({}, {"checks": ["x"]})) as writer:
        writer.write(Result("mine", "a", "x", "passed", seconds=19.0))
    assert main(["compare", old, str(new)]) == 0
    assert "Slower: 1" in capsys.readouterr().out
    assert main(["compare", old, str(new), "--strict"]) == 1
    assert main(["compare", old, str(new), "--strict", "--threshold=20"]) == 0


def test_a_journal_that_cannot_be_read_is_not_a_difference(capsys: Output, tmp_path: Path) -> None:
    assert main(["compare", str(tmp_path / "nowhere"), _journal(tmp_path / "new")]) == 2
    assert "cannot read the journal" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-1", "0.9", "nan", "inf", "many"])
def test_an_invalid_threshold_is_a_usage_error(capsys: Output, value: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["compare", "a", "b", f"--threshold={value}"])
    assert exit_info.value.code == 2
    assert f"'{value}' is not a number of at least 1" in capsys.readouterr().err


def test_removed_results_count_with_strict(tmp_path: Path) -> None:
    folders = [_journal(tmp_path / "old", a="passed", b="passed"), _journal(tmp_path / "new", a="passed")]
    assert main(["compare", *folders]) == 0
    assert main(["compare", *folders, "--strict"]) == 1


def test_runs_without_common_results_cannot_be_compared(capsys: Output, tmp_path: Path) -> None:
    assert main(["compare", _journal(tmp_path / "old", a="passed"), _journal(tmp_path / "new", b="passed")]) == 2
    assert "have no results in common" in capsys.readouterr().err


@pytest.mark.parametrize(("sample", "removed"), [("family", False), ("", True)])
def test_models_outside_of_a_sample_are_not_removed(capsys: Output, tmp_path: Path, sample: str, removed: bool) -> None:
    new = tmp_path / "new"
    options = {"checks": ["x"], **({"sample": sample} if sample else {})}
    with JournalWriter(new, JournalHeader({}, options)) as writer:
        writer.write(Result("mine", "a", "x", "passed"))
    old = _journal(tmp_path / "old", a="passed", b="passed")
    assert main(["compare", old, str(new), "--comment"]) == 0
    text = capsys.readouterr().out
    assert ("Removed: 1" in text) == removed
    assert ("**A sample (family)**: other models are not compared" in text) != removed
    assert main(["compare", str(new), str(new), "--strict"]) == 0
