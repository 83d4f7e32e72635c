"""The engine finds the heads that the atlas lists, and a change of a head is seen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from torch import nn

from conformance import atlas
from conformance.atlas import CHECK, FOLDER, Atlas, AtlasError, Line, accept, differences, found_by, lines_of
from conformance.sampled_models import run_models
from pytest_headswap import ModelSpec, Zoo, check_headswap, load_zoo
from pytest_headswap.head import PathStep
from pytest_headswap.report import Result, read_journal
from pytest_headswap.results.head_record import SwappedHead, SwappedHeads
from tests.journals import write_journal
from tests.usable import usable_transformers

# cheap models of several families: two heads, a convolution, an Identity, no head, several outputs, a mapping
SAMPLE = {
    "timm": (
        *("convnext_atto", "deit_tiny_distilled_patch16_224", "dla34", "mixer_s32_224", "qwen3_vit_88m_enc"),
        *("resnet18", "test_vit", "vit_tiny_patch16_dinov3_qkvb", "volo_d1_224"),
    ),
    "torchvision": ("googlenet", "lraspp_mobilenet_v3_large", "r3d_18", "raft_small", "squeezenet1_1"),
    "transformers": (
        *("DeiTForImageClassificationWithTeacher", "ShieldGemma2ForImageClassification", "ViTForImageClassification"),
    ),
}


@cache
def current(name: str) -> tuple[Zoo, Atlas]:
    """Return a zoo and its atlas. Skip the test if the installed libraries are not those of the atlas."""
    usable_transformers() if name == "transformers" else pytest.importorskip(name)
    zoo, read = load_zoo(name), Atlas.read(FOLDER / f"{name}.tsv")
    if other := read.other_version(zoo):
        pytest.skip(other)
    return zoo, read


@pytest.mark.parametrize("model", [f"{zoo}:{model}" for zoo, models in SAMPLE.items() for model in models])
def test_engine_finds_the_heads_of_the_atlas(model: str) -> None:
    name, _, architecture = model.partition(":")
    _, read = current(name)
    changed = differences(read, found_by(check_headswap(model, checks=CHECK, evidence="abstract")))
    command = f"python -m conformance.atlas {name} --models={architecture}"
    assert not changed, "\n".join([f"the heads of {model} changed; to accept it: {command}", *changed])


@pytest.mark.parametrize("name", SAMPLE)
def test_atlas_lists_every_architecture_once_and_in_order(name: str) -> None:
    zoo, read = current(name)
    assert tuple(read.lines) == zoo.names
    assert all(line.family == zoo[line.architecture].family for lines in read.lines.values() for line in lines[:1])


# Where timm's metadata names other layers than the data flow shows.
DIFFERENT = {
    # it names one of two heads whose outputs are averaged
    **dict.fromkeys(("levit_384_s8", "levit_conv_384_s8"), ({"head.linear"}, {"head.linear", "head_dist.linear"})),
    # it names a layer that the encoder does not have
    **dict.fromkeys(("gemma4_vit_167m_enc", "gemma4_vit_570m_enc"), ({"head"}, set())),
    "mobilenetv5_300m_enc": ({"classifier"}, set()),
}


def test_timm_names_the_same_classifiers_except_where_it_is_known_why() -> None:
    _, read = current("timm")
    import timm

    different = {}
    for name, lines in read.lines.items():
        stated = timm.get_pretrained_cfg(name).classifier or ()
        stated = {stated} if isinstance(stated, str) else set(stated)
        heads = {line.head for line in lines if line.kind}
        if stated != heads:
            different[name] = stated, heads
    assert different == DIFFERENT


def head(path: str = "fc", **more: object) -> SwappedHead:
    """Return the record of a swapped head."""
    steps = (PathStep("layer", "pool", "AvgPool2d"), PathStep("head", path, "Linear"), PathStep("operation", "relu"))
    evidence = (f"dimension 1 of output (size 10) is set by {path}.weight in addmm",)
    fields = {
        "tensors": (f"{path}.weight", f"{path}.bias"),
        "outputs": ("output",),
        "evidence": evidence,
        "path_to_output": (*steps, PathStep("output", "output")),
        **more,
    }
    return SwappedHead(path, "linear", 16, 7, 1, old_num_classes=10, **fields)  # type: ignore[arg-type]


def result(model: str = "net", *heads: SwappedHead, notes: Sequence[str] = (), **more: str) -> Result:
    """Return the result of a model with these heads."""
    fields = {"outcome": "passed", "evidence": "abstract", "nodeid": f"mine::{model}::{CHECK}", **more}
    anatomy = SwappedHeads(heads, tuple(notes)) if heads else None
    return Result("mine", model, CHECK, anatomy=anatomy, family="nets", **fields)  # type: ignore[arg-type]


def test_line_has_the_head_before_the_swap_and_what_other_columns_do_not_imply() -> None:
    plain = (
        "dimension 1 of output (size 10) is set by fc.weight in addmm",
        "addmm reads 16 features computed from the input",
        "no other layer consumes its result: it leads only to the output",
        "its width is 40, which is 4 times the class count",
    )
    (line,) = lines_of(result("net", head(evidence=plain), notes=("tied",), evidence="abstract, fake tensors"))
    assert line == Line(
        *("net", "nets", "fc", "Linear", "linear", "16", "10", "1", "main", "", "output", ".weight, .bias"),
        *("pool (AvgPool2d)", "relu", "fake", "addmm; its width is 40, which is 4 times the class count", "tied"),
    )


def test_heads_are_sorted_and_notes_are_said_once() -> None:
    lines = lines_of(result("net", head("b"), head("a"), notes=("x", "y")))
    assert [(line.head, line.notes) for line in lines] == [("a", "x; y"), ("b", "")]


def test_tensor_outside_the_head_has_its_full_name() -> None:
    (line,) = lines_of(result("net", head(tensors=("fc.weight", "fc2.bias", "prior"))))
    assert line.tensors == ".weight, fc2.bias, prior"
    (line,) = lines_of(result("net", head("", tensors=("weight",))))
    assert line.tensors == "weight"


def test_model_without_a_head_has_its_reason_code() -> None:
    (line,) = lines_of(result("net", outcome="skipped", evidence="", reason="x", message="[ambiguous] two\nheads"))
    assert line == Line("net", "nets", evidence="[ambiguous] two heads")


@pytest.mark.parametrize("outcome", ["crashed", "timeout", "failed", "error"])
def test_model_of_unknown_heads_is_not_listed_as_one_without_a_head(outcome: str) -> None:
    reason = "crashed" if outcome in ("crashed", "timeout") else ""
    with pytest.raises(AtlasError, match=f"mine::net::{CHECK} {outcome}: it broke"):
        found_by([result("net", outcome=outcome, reason=reason, message="it\nbroke"), result("other", head())])


def test_change_of_a_head_is_one_removed_and_one_added_line() -> None:
    before = found_by([result("net", head("a"), head("b")), result("other", head())])
    after = found_by([result("net", head("a"), head("c")), result("other", head())])
    changed = differences(Atlas({}, before), after)
    assert [line.split(" | ")[:3] for line in changed] == [["- net", "nets", "b"], ["+ net", "nets", "c"]]


@pytest.mark.parametrize(
    "change",
    [
        *({"kind": "conv2d"}, {"in_features": 32}, {"old_num_classes": 11}, {"class_dim": 2}, {"role": "auxiliary"}),
        *({"activation": "softmax"}, {"outputs": ("output[0]",)}, {"tensors": ("fc.weight",)}, {"path_to_output": ()}),
    ],
    ids=lambda change: next(iter(change)),
)
def test_change_of_any_fact_is_seen(change: dict[str, object]) -> None:
    before = head()
    if "path_to_output" in change:
        change = {"path_to_output": before.path_to_output[1:]}
    atlas = Atlas({}, found_by([result("net", before)]))
    assert len(differences(atlas, found_by([result("net", replace(before, **change))]))) == 2  # type: ignore[arg-type]


def test_head_that_is_lost_or_gained_is_seen() -> None:
    one, none = found_by([result("net", head())]), found_by([result("net", outcome="skipped", reason="x", message="y")])
    assert len(differences(Atlas({}, one), none)) == 2
    assert len(differences(Atlas({}, none), one)) == 2
    assert len(differences(Atlas({}, {}), one)) == 1


def test_numeric_results_are_compared_without_the_tensors_of_the_abstract_run() -> None:
    abstract = Atlas({}, found_by([result("net", head(), evidence="abstract, real tensors")]))
    assert differences(abstract, found_by([result("net", head(), evidence="numeric")])) == []
    assert len(differences(abstract, found_by([result("net", head())]))) == 2
    assert len(differences(abstract, found_by([result("net", head("other"), evidence="numeric")]))) == 2


def test_heads_come_from_any_check_of_a_journal() -> None:
    others = [replace(result("net"), check="metadata"), result("net", head()), replace(result("net"), check="onnx")]
    assert list(found_by(others)["net"]) == lines_of(result("net", head()))


HOSTILE = ("tab\tbed", "line\nbroken", "<script>alert(1)</script>", "\u202eright to left", "# not a comment", "")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_in_their_column(name: str, tmp_path: Path) -> None:
    found = found_by([result(name, head(name), notes=(name,)), result("net", head())])
    Atlas({"torch": "2.15.0"}, found).write(tmp_path / "mine.tsv")
    assert Atlas.read(tmp_path / "mine.tsv") == Atlas({"torch": "2.15.0"}, found)


def test_empty_atlas_is_read_back(tmp_path: Path) -> None:
    Atlas({"torch": "2.15.0"}, {}).write(tmp_path / "mine.tsv")
    assert Atlas.read(tmp_path / "mine.tsv") == Atlas({"torch": "2.15.0"}, {})


@pytest.mark.parametrize("text", [None, "", "# torch 2\narchitecture\thead\n", "no version\n", "# torch 2\n{}\na\tb\n"])
def test_file_that_is_no_atlas_is_an_error_with_the_command_to_write_it(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    if text is not None:
        path.write_text(text.replace("{}", "\t".join(Line._fields)), encoding="utf-8")
    with pytest.raises(AtlasError, match=r"cannot read .*mine\.tsv: .*python -m conformance\.atlas"):
        Atlas.read(path)


@pytest.mark.parametrize("version", ["0.9", "1.0+cpu", ""])
def test_another_library_version_is_named(version: str) -> None:
    zoo = Zoo("mine", ("net",), lambda name: ModelSpec(name, nn.Identity), {"lib": "1.0"})
    read = Atlas({**atlas.versions_of(zoo), "lib": version} if version else {}, {})
    assert f"lib {version or None}, and 1.0 is installed" in read.other_version(zoo)
    assert Atlas(atlas.versions_of(zoo), {}).other_version(zoo) == ""


def run_here(zoo: str, names: Sequence[str], checks: str, folder: Path, flags: Sequence[str]) -> None:
    """Stand in for `run_models`, without processes."""
    results = [item for name in names for item in check_headswap(f"{zoo}:{name}", checks=checks, evidence="abstract")]
    write_journal(folder, results)


@pytest.mark.parametrize("run", [run_here, pytest.param(run_models, marks=pytest.mark.slow)])
def test_command_accepts_the_lines_of_some_models(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, zoo = tmp_path / "atlas" / "builtin.tsv", load_zoo("builtin")
    run_here("builtin", ("lstm", "conv_head"), CHECK, tmp_path / "before", ())
    Atlas(atlas.versions_of(zoo), found_by(read_journal(tmp_path / "before")[1])).write(path)
    path.write_text(path.read_text(encoding="utf-8").replace("fc", "other"), encoding="utf-8")
    monkeypatch.setattr(atlas, "FOLDER", path.parent)
    monkeypatch.setattr(atlas, "run_models", run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["atlas.py", "builtin", "--models=lstm,encoder_without_head", "-q"])
    assert atlas.main() == 0
    lines = Atlas.read(path).lines
    assert list(lines) == ["conv_head", "encoder_without_head", "lstm"]
    assert lines["encoder_without_head"][0].evidence.startswith("[output_from_input] ")
    printed = capsys.readouterr().out
    assert "- lstm | " in printed
    assert "+ lstm | " in printed
    assert "+ encoder_without_head | " in printed
    assert "builtin.tsv: 3 lines changed" in printed
    assert accept(zoo, ("lstm",), tmp_path / "again", (), path) == []


def test_whole_run_removes_the_lines_of_architectures_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas, "run_models", run_here)
    zoo, path = load_zoo("builtin"), tmp_path / "builtin.tsv"
    zoo = Zoo("builtin", ("lstm",), zoo.spec, {"lib": "2"})
    Atlas({"lib": "1"}, found_by([result("gone", head())])).write(path)
    assert [line[:6] for line in accept(zoo, ("lstm",), tmp_path / "report", (), path)] == ["- gone", "+ lstm"]
    assert Atlas.read(path).versions["lib"] == "2"


def test_lines_of_some_models_are_not_written_among_those_of_other_versions(tmp_path: Path) -> None:
    path = tmp_path / "builtin.tsv"
    Atlas({"torch": "0.1"}, {}).write(path)
    with pytest.raises(AtlasError, match=r"the atlas is of torch 0\.1, and .* is installed\. Run the whole zoo"):
        accept(load_zoo("builtin"), ("lstm",), tmp_path / "report", (), path)
    path.unlink()
    with pytest.raises(AtlasError, match="cannot read"):
        accept(load_zoo("builtin"), ("lstm",), tmp_path / "report", (), path)


def test_run_that_is_not_complete_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas, "run_models", lambda zoo, names, *more: run_here(zoo, names[:1], *more))
    zoo = Zoo("builtin", ("conv_head", "lstm"), load_zoo("builtin").spec)
    with pytest.raises(AtlasError, match=r"the run is not complete: run the same command again \(lstm\)"):
        accept(zoo, zoo.names, tmp_path / "report", (), tmp_path / "builtin.tsv")
    assert not (tmp_path / "builtin.tsv").exists()
