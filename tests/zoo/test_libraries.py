"""Test the zoos of libraries: the models they list, and swaps compared with models that the library builds."""

from __future__ import annotations

import pytest
import torch

from pytest_headswap.case.build import build_case
from pytest_headswap.case.options import CaseOptions
from pytest_headswap.checks import CHECKS, run_check
from pytest_headswap.engine import NoHeadError
from pytest_headswap.zoo import ModelSpec, Zoo, ZooError, load_zoo, register, select_models, zoo_names

TIMM = [
    "resnet18",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",  # two heads
    "levit_128s",  # two heads, each after a norm
    "crossvit_9_240",  # a list of heads
    "volo_d1_224",  # main and auxiliary head, summed
    "dla34",  # a 1x1 convolution
    "efficientvim_m1",  # scalars after the head
    "vit_small_patch14_dinov2",  # built without a head
    "convnext_tiny",
    "mobilenetv3_small_050",
]
TORCHVISION = [
    "squeezenet1_1",
    "googlenet",  # auxiliary heads in train mode
    "vgg11",
    "quantized_mobilenet_v2",
    "r3d_18",
    "fcn_resnet50",  # two outputs in a dict
    "fasterrcnn_mobilenet_v3_large_320_fpn",  # four coordinates per class
    "ssdlite320_mobilenet_v3_large",  # anchors times classes
    "regnet_x_400mf",  # cannot be built on meta
]


LEFT_OUT = {"round_trip": "the copy was run abstractly, because the model is large"}


@pytest.mark.parametrize(
    ("zoo", "model"), [*(("timm", name) for name in TIMM), *(("torchvision", name) for name in TORCHVISION)]
)
def test_every_check_passes(zoo: str, model: str) -> None:
    case = build_case(zoo, load_zoo(zoo)[model], CaseOptions())
    findings = {name: run_check(name, case) for name in CHECKS}
    assert {name: finding.message for name, finding in findings.items() if finding.outcome != "passed"} == {}
    assert {name: finding.message for name, finding in findings.items() if finding.message} == (
        LEFT_OUT if case.is_large else {}
    )


def test_real_model_has_the_same_head_as_the_abstract_model() -> None:
    spec = load_zoo("timm")["resnet18"]
    model = spec.build()
    from pytest_headswap import swap_head

    swap = swap_head(model, 7)
    assert swap.heads[0].path == "fc"
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("zoo", ["builtin", "timm", "torchvision"])
def test_model_names_are_sorted_and_unique_and_have_families(zoo: str) -> None:
    names = load_zoo(zoo).names
    assert list(names) == sorted(set(names))
    assert len(names) > 30
    assert all(spec.family for spec in load_zoo(zoo))


def test_torchvision_zoo_covers_every_namespace() -> None:
    tags = {tag for spec in load_zoo("torchvision") for tag in spec.tags}
    assert tags == {"classification", "quantization", "video", "segmentation", "detection", "optical_flow"}


def test_optical_flow_models_are_refused() -> None:
    with pytest.raises(NoHeadError, match="raft_small: optical flow has no classes") as caught:
        build_case("torchvision", load_zoo("torchvision")["raft_small"], CaseOptions())
    assert caught.value.reason == "zoo_refused"


def test_wrong_timm_metadata_gives_a_note() -> None:
    spec = load_zoo("timm")["resnet18"]
    with torch.device("meta"):
        model = spec.build()
    from pytest_headswap import find_heads

    heads = find_heads(model)
    assert spec.metadata_notes is not None
    assert spec.metadata_notes(model, heads) == ()
    model.default_cfg = {**model.default_cfg, "classifier": "head"}  # type: ignore[dict-item, assignment]
    assert spec.metadata_notes(model, heads) == (
        "timm's metadata names head as the classifier; the data flow shows fc",
    )


# --- selection and registration ------------------------------------------------------------------


def zoo_of(*names: str) -> Zoo:
    return Zoo("z", names, lambda name: ModelSpec(name, build=torch.nn.Identity))


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("", ("a1", "a2", "b1")),
        ("a*", ("a1", "a2")),
        ("a1, b1", ("a1", "b1")),
        ("!a*", ("b1",)),
        ("*,!a1", ("a2", "b1")),
        ("?1", ("a1", "b1")),
        (" a1 ,", ("a1",)),
    ],
)
def test_models_are_selected_by_globs(patterns: str, names: tuple[str, ...]) -> None:
    assert select_models(zoo_of("b1", "a2", "a1"), patterns) == names


@pytest.mark.parametrize(
    ("patterns", "text"),
    [
        ("a3", "unknown model 'a3' in zoo 'z': known are a1, a2, b1"),
        ("c*", "no model of zoo 'z' matches 'c\\*'"),
        ("!c*", "no model of zoo 'z' matches 'c\\*'"),
        ("a1,!a*", "excludes every model of zoo 'z'"),
    ],
)
def test_pattern_without_matches_is_an_error_with_a_hint(patterns: str, text: str) -> None:
    with pytest.raises(ZooError, match=text):
        select_models(zoo_of("b1", "a2", "a1"), patterns)


def test_exact_name_with_glob_characters_selects_one_model() -> None:
    assert select_models(zoo_of("a[1]", "a1"), "a[1]") == ("a[1]",)


def test_missing_library_error_names_the_extra() -> None:
    def load() -> Zoo:
        raise ModuleNotFoundError("No module named 'timm'", name="timm")

    register("absent", load, library="timm")
    with pytest.raises(
        ZooError, match=r"zoo 'absent' needs timm, which is not installed: pip install 'pytest-headswap\[timm\]'"
    ):
        load_zoo("absent")


def test_broken_library_is_not_reported_as_missing() -> None:
    def load() -> Zoo:
        raise ImportError("libcudart is missing", name="torch._C")

    register("broken", load, library="timm")
    with pytest.raises(ZooError, match="importing timm failed: libcudart is missing"):
        load_zoo("broken")


def test_known_zoos_are_listed() -> None:
    assert {"builtin", "timm", "torchvision"} <= set(zoo_names())
