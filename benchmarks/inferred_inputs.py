"""Compare `swap_head(model, 5)` with `swap_head(model, 5, inputs)`: `python benchmarks/inferred_inputs.py`.

Each model has real weights on the CPU and runs at batch 2 and its own resolution. One process per model times forward
passes, swaps with inputs and swaps without inputs in turn. Memory is measured in a separate process for each variant,
because a peak never falls.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import timm
import torch
from swap_cost import seconds
from torch import nn
from torchvision import models

from pytest_headswap import swap_head

IMAGE = (2, 3, 224, 224)
MODELS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("densenet121", "resnet50", "efficientnet_b0", "hrnet_w18"), IMAGE),
    "inception_v3": (2, 3, 299, 299),
    "r3d_18": (2, 3, 16, 112, 112),
    **dict.fromkeys(("vit_base_patch16_224", "swin_t"), IMAGE),
}
ROUNDS = 5


@dataclass(frozen=True)
class Cost:
    """The cost for one model: seconds of a forward pass and of each kind of swap, and peak MB of each swap."""

    forward: float
    given: float
    inferred: float
    given_mb: float
    inferred_mb: float

    @property
    def extra_forwards(self) -> float:
        """Return the cost of inferring the inputs, in forward passes."""
        return (self.inferred - self.given) / self.forward


def build(name: str) -> nn.Module:
    """Return the model with random weights, in train mode as its library returns it."""
    options: dict[str, Any] = {"weights": None} | ({"init_weights": False} if name == "inception_v3" else {})
    if name in models.list_models():
        return models.get_model(name, **options)  # type: ignore[no-any-return]
    return timm.create_model(name)  # type: ignore[no-any-return]


def measure(name: str, rounds: int = ROUNDS) -> Cost:
    """Measure one model."""
    model = build(name)
    image = torch.zeros(MODELS[name])

    def forward() -> None:
        with torch.no_grad():
            model.eval()(image)

    ways = (forward, lambda: swap_head(model, 5, image).restore(), lambda: swap_head(model, 5).restore())
    for way in ways:
        way()  # warm up: imports and one-time allocations
    times = zip(*([seconds(way) for way in ways] for _ in range(rounds)), strict=True)
    return Cost(*(statistics.median(each) for each in times), peak_mb(name, "given"), peak_mb(name, "inferred"))


def peak_mb(name: str, way: str) -> float:
    """Return the peak memory of the first swap of a process, in MB."""
    command = [sys.executable, __file__, "--peak", name, way]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak(name: str, way: str) -> None:
    """Swap once, and print by how many MB the process grew at its peak."""
    torch.set_num_threads(1)
    swap_head(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), 5, torch.zeros(2, 8))  # warm up
    model = build(name)
    inputs = torch.zeros(MODELS[name]) if way == "given" else None
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak after building the model
    before = psutil.Process().memory_info().rss
    swap_head(model, 5, inputs)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 2**10
    print((peak - before) / 2**20)


def table(costs: Mapping[str, Cost]) -> list[str]:
    """Return the figures as a Markdown table."""
    threads = torch.get_num_threads()
    lines = [
        f"Swaps without inputs compared with swaps with inputs (batch 2, own resolution, threads: {threads}):",
        "",
        "| | forward | with inputs | without | difference in forward passes | memory with | without |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, cost in costs.items():
        times = " | ".join(f"{value * 1e3:.0f} ms" for value in (cost.forward, cost.given, cost.inferred))
        memory = f"{cost.given_mb:.0f} MB | {cost.inferred_mb:.0f} MB"
        lines.append(f"| {name} | {times} | {cost.extra_forwards:.2f} | {memory} |")
    return lines


def main() -> None:
    """Measure every model and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(*arguments.peak)
        return
    torch.set_num_threads(arguments.threads)
    print("\n".join(table({name: measure(name, arguments.rounds) for name in MODELS})))


if __name__ == "__main__":
    main()
