"""Two checks of this project. They run after the built-in checks, on every zoo under test."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pytest_headswap import Case, CheckFailed, CheckSkipped

MAX_PARAMETERS = 4_000  # the camera's memory for a head


def fits_camera(case: Case) -> str:
    """Check that the head fits into the camera's memory."""
    count = sum(parameter.numel() for parameter in case.swap.parameters())
    if count > MAX_PARAMETERS:
        raise CheckFailed(f"the head has {count:,} parameters, but the camera allows {MAX_PARAMETERS:,}")
    return f"{count:,} parameters"  # a note for the report


def keeps_channels_last(case: Case) -> None:
    """Check that images in the camera's memory layout give the same logits as in the default layout."""
    if not case.numeric:
        raise CheckSkipped("no_values", "without values, tensors have no memory layout")
    (images, *_) = case.inputs.args
    if images.ndim != 4:
        raise CheckSkipped("no_images", f"the model takes inputs of {images.ndim} dimensions")
    with torch.no_grad():
        default, channels_last = (case.model.eval()(images.to(memory_format=layout)) for layout in LAYOUTS)
    if not torch.allclose(default, channels_last, atol=1e-4):
        raise CheckFailed(f"logits differ by up to {(default - channels_last).abs().max():.2g}")


LAYOUTS = (torch.contiguous_format, torch.channels_last)


def pytest_headswap_checks() -> dict[str, Callable[[Case], str | None]]:
    """Return the checks by name, as used in ids and in --headswap-checks."""
    return {"fits_camera": fits_camera, "keeps_channels_last": keeps_channels_last}
