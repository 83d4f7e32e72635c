"""Measure the cost of a swap in forward passes of the same model: `python benchmarks/swap_cost.py`.

Each model has real weights on the CPU and runs at batch 1 and its own resolution. One process times forward passes and
swaps in turn, so the ratio holds even if the machine's speed drifts. The ratio is the median over all rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torchvision
from torch import nn

from pytest_headswap import swap_head

MODELS = ("resnet50", "resnet18", "vit_b_16", "convnext_tiny", "efficientnet_b0", "swin_t")
ROUNDS = 15


def seconds(function: Callable[[], object]) -> float:
    """Return the duration of one call in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(name: str, rounds: int = ROUNDS) -> tuple[float, float, float]:
    """Return the median seconds of a forward pass and of a swap, and the median of their ratios."""
    model: nn.Module = torchvision.models.get_model(name, weights=None).eval()
    image = torch.randn(1, 3, 224, 224)

    def forward() -> None:
        with torch.no_grad():
            model(image)

    def swap() -> None:
        swap_head(model, 7, image).restore()

    forward(), swap()  # warm up: imports and one-time allocations
    pairs = [(seconds(forward), seconds(swap)) for _ in range(rounds)]
    forwards, swaps = zip(*pairs, strict=True)
    return statistics.median(forwards), statistics.median(swaps), statistics.median(b / a for a, b in pairs)


def table(figures: Mapping[str, tuple[float, float, float]]) -> list[str]:
    """Return the figures as a Markdown table."""
    threads = torch.get_num_threads()
    lines = [
        f"Swaps compared with forward passes of the same model (batch 1, 224 pixels, threads: {threads}):",
        "",
        "| | forward | swap | swap in forward passes |",
        "|---|---:|---:|---:|",
    ]
    for name, (forward, swap, ratio) in figures.items():
        lines.append(f"| {name} | {forward * 1e3:.0f} ms | {swap * 1e3:.0f} ms | {ratio:.2f} |")
    return lines


def main() -> None:
    """Measure every model and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("\n".join(table({name: measure(name, arguments.rounds) for name in MODELS})))


if __name__ == "__main__":
    main()
