"""Test the small variants of timm architectures that accept only one image size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap import find_heads
from pytest_headswap.zoo import ModelSpec, load_zoo

pytest.importorskip("timm")

SIZES = {
    "vit_tiny_patch16_224": 32,  # 2 x 2 patches
    "vit_small_patch14_dinov2": 28,
    "xcit_nano_12_p8_224": 16,
    "mixer_b32_224": 64,
    "deit_tiny_distilled_patch16_224": 32,  # two heads
    "swin_tiny_patch4_window7_224": 64,  # the last maps are smaller than a window
    "maxvit_rmlp_pico_rw_256": 64,  # windows smaller than the image
    "levit_128s": 128,  # stride 64
    "volo_d1_224": 32,  # main and auxiliary head, summed
    "crossvit_9_240": 120,  # two patch sizes
    "halo2botnet50ts_256": 128,  # attention in 8 x 8 blocks
}


def small(name: str) -> ModelSpec:
    spec = load_zoo("timm")[name]
    assert spec.small_variant is not None
    return spec.small_variant()


def built(spec: ModelSpec) -> tuple[nn.Module, Tensor]:
    """Return the model and its inputs, both on the meta device."""
    assert spec.example_inputs is not None
    with torch.device("meta"):
        model = spec.build()
        return model, spec.example_inputs(model)


def shapes(outputs: Any) -> Any:
    return [shapes(output) for output in outputs] if isinstance(outputs, tuple | list) else tuple(outputs.shape)


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_small_variant_has_outputs_of_the_same_shape(name: str, size: int) -> None:
    model, images = built(load_zoo("timm")[name])
    small_model, small_images = built(small(name))
    assert small_images.shape == (2, 3, size, size)
    for training in (False, True):
        outputs = model.train(training)(images)
        assert shapes(small_model.train(training)(small_images)) == shapes(outputs)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224", "crossvit_9_240"])
def test_small_variant_has_the_same_heads(name: str) -> None:
    model, images = built(load_zoo("timm")[name])
    small_model, small_images = built(small(name))
    heads = [(head.path, head.num_classes) for head in find_heads(model, images)]
    assert [(head.path, head.num_classes) for head in find_heads(small_model, small_images)] == heads


def test_small_variant_builds_a_native_model_of_its_size() -> None:
    spec = small("vit_tiny_patch16_224")
    assert spec.build_native is not None
    with torch.device("meta"):
        shipped, native = spec.build(), spec.build_native(7)
    expected = {name: tensor.shape for name, tensor in shipped.state_dict().items()}
    expected |= {"head.weight": torch.Size([7, 192]), "head.bias": torch.Size([7])}
    assert {name: tensor.shape for name, tensor in native.state_dict().items()} == expected


def test_small_variant_keeps_the_other_fields_of_its_spec() -> None:
    spec, smaller = load_zoo("timm")["vit_tiny_patch16_224"], small("vit_tiny_patch16_224")
    assert smaller.small_variant is None
    assert (smaller.name, smaller.family, smaller.metadata_notes) == (spec.name, spec.family, spec.metadata_notes)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "levit_128s", "xcit_nano_12_p8_224"])
def test_small_variant_computes_finite_outputs_that_differ_by_sample(name: str) -> None:
    spec = small(name)
    assert spec.example_inputs is not None
    torch.manual_seed(0)
    model = spec.build()
    images = torch.randn_like(spec.example_inputs(model))
    for training in (False, True):
        outputs = model.train(training)(images)
        for output in outputs if isinstance(outputs, tuple) else (outputs,):
            assert output.isfinite().all()
            assert not torch.equal(output[0], output[1])


@pytest.mark.parametrize("name", ["resnet18", "efficientformer_l1"])
def test_models_that_cannot_be_built_smaller_have_no_small_variant(name: str) -> None:
    assert load_zoo("timm")[name].small_variant is None
