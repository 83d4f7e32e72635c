"""The zoo of torchvision: every model of its registry, with random weights.

Detection models return selected boxes or losses, which have no class dimension. An adapter therefore returns the
outputs of their class-sized layers, in the layout in which the library reads them.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from pytest_headswap.zoo.spec import ModelSpec, Zoo

BATCH = 2  # batch norm needs more than one sample in train mode
IMAGE = 224
FRAMES = 16
DETECTION_IMAGE = 320  # the input size of the smallest detector
_OPTIONS: dict[str, Any] = {
    "weights": None,
    "weights_backbone": None,  # otherwise segmentation and detection download a backbone
    "aux_loss": True,  # segmentation builds its auxiliary head only on request
    "init_weights": False,  # GoogLeNet and Inception spend minutes on initialization
}


def load() -> Zoo:
    """List the models without building any."""
    return Zoo("torchvision", tuple(models.list_models()), _spec, {"torchvision": torchvision.__version__})


_MASK_HEADS = tuple(
    f"model.roi_heads.{path}"
    for path in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
)
"""The scores, boxes and masks of Mask R-CNN count the same classes. The data flow alone does not say so."""


def _spec(name: str) -> ModelSpec:
    namespace, module = _origin(name)
    skip_reason = "optical flow has no classes" if namespace == "optical_flow" else ""
    return ModelSpec(
        name,
        build=partial(_build, name),
        example_inputs=partial(_inputs, name),
        build_native=lambda num_classes: _build(name, num_classes=num_classes),
        head=_MASK_HEADS if module == "mask_rcnn" else None,
        skip_reason=skip_reason,
        family=module,
        tags=(namespace,),
    )


def _origin(name: str) -> tuple[str, str]:
    """Return namespace and module: `("video", "resnet")` for `torchvision.models.video.resnet`."""
    _, _, *parts = models.get_model_builder(name).__module__.split(".")
    return (parts[0] if len(parts) > 1 else "classification"), parts[-1]


def _build(name: str, **options: Any) -> nn.Module:
    accepted = _accepted(models.get_model_builder(name))
    accepted_options = {key: value for key, value in _OPTIONS.items() if key in accepted}
    model: nn.Module = models.get_model(name, **accepted_options, **options)
    return ClassOutputs(model) if _origin(name)[0] == "detection" else model


def _accepted(builder: Any) -> set[str]:
    """Return the options of a builder, including the one that some builders pass on to the model's class."""
    names = set(inspect.signature(builder).parameters)
    if builder.__module__.endswith(("googlenet", "inception")):
        names.add("init_weights")
    return names


def _inputs(name: str, _: nn.Module) -> Tensor:
    """Return images (2, 3, size, size) or clips (2, 3, 16, size, size), of the model's smallest size, at least 224."""
    namespace, module = _origin(name)
    if namespace == "detection":
        return torch.zeros(BATCH, 3, DETECTION_IMAGE, DETECTION_IMAGE)
    sizes = [weights.meta.get("min_size", (1, 1))[0] for weights in models.get_model_weights(name)]
    size = max(IMAGE, min(sizes)) if module != "inception" else 299  # its auxiliary head needs more than min_size
    return torch.zeros(BATCH, 3, FRAMES, size, size) if namespace == "video" else torch.zeros(BATCH, 3, size, size)


class ClassOutputs(nn.Module):
    """A detection model that returns the raw outputs of its class-sized layers.

    One-stage models return the output of their head on the feature maps: (B, anchors, classes). Two-stage models run on
    one region as large as the image. They return class scores (B, classes), boxes (B, classes, 4) and, if the model
    has a mask head, masks (B, classes, height, width).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.model.backbone(images)
        maps = list(maps.values()) if isinstance(maps, dict) else [maps]
        if not hasattr(self.model, "roi_heads"):
            return {"cls_logits": self.model.head(maps)["cls_logits"]}
        heads = self.model.roi_heads
        region = heads.box_head(self._region(maps[0], heads.box_roi_pool))
        scores, boxes = heads.box_predictor(region)
        # four coordinates per class, as roi_heads reads them
        outputs = {"cls_logits": scores, "boxes": boxes.reshape(len(boxes), -1, 4)}
        if heads.has_mask():
            region = heads.mask_head(self._region(maps[0], heads.mask_roi_pool))
            outputs["masks"] = heads.mask_predictor(region)
        return outputs

    @staticmethod
    def _region(features: Tensor, pool: Any) -> Tensor:
        return functional.adaptive_avg_pool2d(features, pool.output_size)
