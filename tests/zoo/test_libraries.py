"""The zoos of libraries: what they list, and that a swap gives what the library itself would build."""

from __future__ import annotations

import pytest
import torch

from pytest_headswap._case_options import CaseOptions
from pytest_headswap.case.build import build_case
from pytest_headswap.checks import CHECKS, run_check
from pytest_headswap.engine import NoHeadError
from pytest_headswap.zoo import ModelSpec, Zoo, ZooError, load_zoo, register, select_models, zoo_names

TIMM = [
    "resnet18",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",  # two heads
    "levit_128s",  # two heads behind norms
    "crossvit_9_240",  # a list of heads
    "volo_d1_224",  # main and auxiliary head, summed
    "dla34",  # a 1x1 convolution
    "efficientvim_m1",  # scalars behind the head
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
    "fasterrcnn_mobilenet_v3_large_320_fpn",  # four coordinates a class
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


def test_a_model_built_for_real_gives_what_the_abstract_one_gives() -> None:
    spec = load_zoo("timm")["resnet18"]
    model = spec.build()
    from pytest_headswap import swap_head

    swap = swap_head(model, 7)
    assert swap.heads[0].path == "fc"
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("zoo", ["builtin", "timm", "torchvision"])
def test_listings_are_sorted_unique_and_have_families(zoo: str) -> None:
    names = load_zoo(zoo).names
    assert list(names) == sorted(set(names))
    assert len(names) > 30
    assert all(spec.family for spec in load_zoo(zoo))


def test_torchvision_has_all_its_namespaces() -> None:
    tags = {tag for spec in load_zoo("torchvision") for tag in spec.tags}
    assert tags == {"classification", "quantization", "video", "segmentation", "detection", "optical_flow"}


def test_optical_flow_is_refused_by_name() -> None:
    with pytest.raises(NoHeadError, match="raft_small: optical flow has no classes") as caught:
        build_case("torchvision", load_zoo("torchvision")["raft_small"], CaseOptions())
    assert caught.value.reason == "zoo_refused"


def test_timm_says_where_its_own_metadata_differs() -> None:
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
        ("a3", "unknown model 'a3' in zoo 'z': it has a1, a2, b1"),
        ("c*", "no model of zoo 'z' matches 'c\\*'"),
        ("!c*", "no model of zoo 'z' matches 'c\\*'"),
        ("a1,!a*", "excludes every model of zoo 'z'"),
    ],
)
def test_a_selection_of_nothing_is_an_error_that_helps(patterns: str, text: str) -> None:
    with pytest.raises(ZooError, match=text):
        select_models(zoo_of("b1", "a2", "a1"), patterns)


def test_a_name_with_signs_of_a_glob_is_a_name() -> None:
    assert select_models(zoo_of("a[1]", "a1"), "a[1]") == ("a[1]",)


def test_a_library_that_is_not_installed_is_named_with_its_extra() -> None:
    def load() -> Zoo:
        raise ModuleNotFoundError("No module named 'timm'", name="timm")

    register("absent", load, library="timm")
    with pytest.raises(
        ZooError, match=r"zoo 'absent' needs timm, which is not installed: pip install 'pytest-headswap\[timm\]'"
    ):
        load_zoo("absent")


def test_a_library_that_is_broken_is_not_called_absent() -> None:
    def load() -> Zoo:
        raise ImportError("libcudart is missing", name="torch._C")

    register("broken", load, library="timm")
    with pytest.raises(ZooError, match="importing timm failed: libcudart is missing"):
        load_zoo("broken")


def test_the_known_zoos_are_listed() -> None:
    assert {"builtin", "timm", "torchvision"} <= set(zoo_names())
