"""Test the torchvision zoo: swapped detectors train on and predict the new classes, and inputs fit every namespace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_headswap import HeadSwapError, find_heads, swap_head
from pytest_headswap.zoo import load_zoo

pytest.importorskip("torchvision")

CLASSES = 7
SIZE = 320


def swapped(name: str, **options: Any) -> tuple[Any, Any]:
    """Return a detector without its adapter, on small images, swapped to seven classes; and the swap."""
    spec = load_zoo("torchvision")[name]
    assert spec.example_inputs is not None
    torch.manual_seed(0)
    adapter: Any = spec.build()
    swap = swap_head(adapter, CLASSES, spec.example_inputs(adapter), **options)
    adapter.model.transform.min_size = (SIZE,)
    return adapter.model, swap


def images() -> list[Tensor]:
    return list(torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))


def targets() -> list[dict[str, Tensor]]:
    """Return one box of the last class for each image."""
    return [{"boxes": torch.tensor([[20.0, 20, 120, 120]]), "labels": torch.tensor([CLASSES - 1])}] * 2


DETECTORS = [
    "fasterrcnn_mobilenet_v3_large_320_fpn",  # scores, and four coordinates per class
    "ssdlite320_mobilenet_v3_large",  # six heads of anchors x classes
    "retinanet_resnet50_fpn_v2",  # one head of anchors x classes for all feature maps
    "fcos_resnet50_fpn",
]


@pytest.mark.parametrize("name", DETECTORS)
def test_swapped_detector_trains_on_the_last_new_class(name: str) -> None:
    model, swap = swapped(name)
    loss = sum(model.train()(images(), targets()).values())
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in swap.parameters())


@pytest.mark.parametrize("name", DETECTORS)
def test_swapped_detector_predicts_only_new_classes(name: str) -> None:
    model, _ = swapped(name)
    owner = model if hasattr(model, "score_thresh") else model.roi_heads
    owner.score_thresh = 0.0  # random weights give low scores
    with torch.no_grad():
        found = torch.cat([image["labels"] for image in model.eval()(images())])
    assert len(found) > 0
    assert int(found.max()) < CLASSES


@pytest.mark.parametrize("name", DETECTORS)
def test_unwrapped_detector_is_refused_with_decoded_output(name: str) -> None:
    detector: Any = load_zoo("torchvision")[name].build().get_submodule("model")
    detector.transform.min_size = (96,)
    before = {key: id(value) for key, value in detector.state_dict(keep_vars=True).items()}
    with pytest.raises(HeadSwapError, match=r"output\[0\]\['labels'\].*call swap_head on the submodule") as caught:
        swap_head(detector, CLASSES, [[torch.zeros(3, 96, 96)]])
    assert caught.value.reason == "decoded_output"
    assert {key: id(value) for key, value in detector.state_dict(keep_vars=True).items()} == before


@pytest.mark.parametrize("name", DETECTORS[1:])
def test_classification_head_of_a_detector_is_swapped(name: str) -> None:
    detector: Any = load_zoo("torchvision")[name].build().get_submodule("model").eval()
    with torch.no_grad():
        maps = list(detector.backbone(torch.zeros(1, 3, SIZE, SIZE)).values())
    swap_head(detector.head.classification_head, CLASSES, (maps,))
    detector.transform.min_size, detector.score_thresh = (SIZE,), 0.0
    with torch.no_grad():
        found = torch.cat([image["labels"] for image in detector(images())])
    assert len(found) > 0
    assert int(found.max()) < CLASSES


def test_prior_init_gives_the_first_loss_of_the_native_model() -> None:
    """One-stage detectors start with a small probability for each of many thousand anchors."""
    model, _ = swapped("retinanet_resnet50_fpn_v2", init="prior")
    native = load_zoo("torchvision")["retinanet_resnet50_fpn_v2"].build_native
    assert native is not None
    torch.manual_seed(0)
    other: Any = native(CLASSES)
    other.model.transform.min_size = (SIZE,)
    losses = [m.train()(images(), targets())["classification"].item() for m in (model, other.model)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_adapter_returns_only_outputs_with_classes() -> None:
    spec = load_zoo("torchvision")["maskrcnn_resnet50_fpn"]
    assert spec.build_native is not None
    assert spec.example_inputs is not None
    with torch.device("meta"):
        model = spec.build_native(CLASSES)
        outputs = model(spec.example_inputs(model))
    shapes = {label: tuple(output.shape) for label, output in outputs.items()}
    assert shapes == {"cls_logits": (2, 7), "boxes": (2, 7, 4), "masks": (2, 7, 28, 28)}


def test_region_proposal_layers_are_not_heads() -> None:
    spec = load_zoo("torchvision")["maskrcnn_resnet50_fpn"]
    assert spec.example_inputs is not None
    with torch.device("meta"):
        model = spec.build()
        heads = find_heads(model, spec.example_inputs(model))
    assert {head.path for head in heads} == {
        "model.roi_heads.box_predictor.cls_score",
        "model.roi_heads.box_predictor.bbox_pred",
        "model.roi_heads.mask_predictor.mask_fcn_logits",
    }


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (2, 3, 224, 224)),
        ("inception_v3", (2, 3, 299, 299)),  # the auxiliary head fails on smaller images
        ("quantized_resnet18", (2, 3, 224, 224)),
        ("r3d_18", (2, 3, 16, 224, 224)),
        ("fcn_resnet50", (2, 3, 224, 224)),
        ("ssd300_vgg16", (2, 3, 320, 320)),
    ],
)
def test_example_inputs_fit_the_namespace(name: str, shape: tuple[int, ...]) -> None:
    spec = load_zoo("torchvision")[name]
    assert spec.example_inputs is not None
    assert tuple(spec.example_inputs(torch.nn.Identity()).shape) == shape
