"""Two checks of this project. They run behind those of pytest-headswap, on every zoo that is asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pytest_headswap import Case, CheckFailed, CheckSkipped

MOST_NUMBERS = 4_000  # what the camera has left for a head


def fits_camera(case: Case) -> str:
    """The head fits into the memory that the camera has for it."""
    numbers = sum(parameter.numel() for parameter in case.swap.parameters())
    if numbers > MOST_NUMBERS:
        raise CheckFailed(f"the head has {numbers:,} numbers, and the camera takes {MOST_NUMBERS:,}")
    return f"{numbers:,} numbers"  # a note, which the report shows


def keeps_channels_last(case: Case) -> None:
    """Images in the memory layout of the camera give the logits that they give in the usual one."""
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
    """Add the checks, by the names that stand in ids and in --headswap-checks."""
    return {"fits_camera": fits_camera, "keeps_channels_last": keeps_channels_last}
