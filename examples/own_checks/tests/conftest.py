"""Two checks of this project. They run after the built-in checks, on every zoo under test."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pytest_headswap import Case, CheckFailed, CheckSkipped

MOST_NUMBERS = 4_000  # the camera's memory for a head


def fits_camera(case: Case) -> str:
    """Check that the head fits into the camera's memory."""
    numbers = sum(parameter.numel() for parameter in case.swap.parameters())
    if numbers > MOST_NUMBERS:
        raise CheckFailed(f"the head has {numbers:,} numbers, and the camera takes {MOST_NUMBERS:,}")
    return f"{numbers:,} numbers"  # a note that the report shows


def keeps_channels_last(case: Case) -> None:
    """Check that images in the camera's memory layout give the same logits as in the default layout."""
    if not case.numeric:
        raise CheckSkipped("no_values", "the layout of memory means nothing without memory")
    (images, *_) = case.inputs.args
    if images.ndim != 4:
        raise CheckSkipped("no_images", f"the model takes inputs of {images.ndim} dimensions")
    with torch.no_grad():
        usual, of_camera = (case.model.eval()(images.to(memory_format=layout)) for layout in LAYOUTS)
    if not torch.allclose(usual, of_camera, atol=1e-4):
        raise CheckFailed(f"logits differ by up to {(usual - of_camera).abs().max():.2g}")


LAYOUTS = (torch.contiguous_format, torch.channels_last)


def pytest_headswap_checks() -> dict[str, Callable[[Case], str | None]]:
    """Return the checks by name, as used in ids and in --headswap-checks."""
    return {"fits_camera": fits_camera, "keeps_channels_last": keeps_channels_last}
