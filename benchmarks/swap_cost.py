"""What a swap costs, in forward passes of the same model: `python benchmarks/swap_cost.py`.

Each model is real, on the CPU, at batch 1 and its own resolution. Forward passes and swaps are timed in turn in
one process, so that the ratio holds on a machine whose speed drifts; a ratio is the median over all rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import nn

from pytest_headswap import swap_head

MODELS = ("resnet50", "resnet18", "vit_b_16", "convnext_tiny", "efficientnet_b0", "swin_t")


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(name: str, rounds: int) -> tuple[float, float, float]:
    """Median seconds of a forward pass and of a swap, and the median of their ratios."""
    model: nn.Module = torchvision.models.get_model(name, weights=None).eval()
    image = torch.randn(1, 3, 224, 224)

    def forward() -> None:
        with torch.no_grad():
            model(image)

    def swap() -> None:
        swap_head(model, 7, image).restore()

    forward(), swap()  # not counted: what is imported and allocated once
    pairs = [(seconds(forward), seconds(swap)) for _ in range(rounds)]
    forwards, swaps = zip(*pairs, strict=True)
    return statistics.median(forwards), statistics.median(swaps), statistics.median(b / a for a, b in pairs)


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds")
    print(f"{'model':<18}{'forward':>10}{'swap':>10}{'swap in forward passes':>26}")
    for name in MODELS:
        forward, swap, ratio = measure(name, arguments.rounds)
        print(f"{name:<18}{forward * 1e3:>7.0f} ms{swap * 1e3:>7.0f} ms{ratio:>26.2f}")


if __name__ == "__main__":
    main()
