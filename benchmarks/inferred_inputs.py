"""What `swap_head(model, 5)` costs beside `swap_head(model, 5, inputs)`: `python benchmarks/inferred_inputs.py`.

Each model is real, on the CPU, at batch 2 and its own resolution. One process a model times swaps with inputs, swaps
without, and forward passes in turn. Memory is the peak of a process of its own for each way, since peaks do not fall.
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
    """Of one model: seconds of a forward pass and of a swap in each way, and MB that a swap takes at most."""

    forward: float
    given: float
    inferred: float
    given_mb: float
    inferred_mb: float

    @property
    def extra_forwards(self) -> float:
        """What working out the inputs takes, in forward passes."""
        return (self.inferred - self.given) / self.forward


def build(name: str) -> nn.Module:
    """The model with random weights, in train mode as its library returns it."""
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
        way()  # not counted: what is imported and allocated once
    times = zip(*([seconds(way) for way in ways] for _ in range(rounds)), strict=True)
    return Cost(*(statistics.median(each) for each in times), peak_mb(name, "given"), peak_mb(name, "inferred"))


def peak_mb(name: str, way: str) -> float:
    """The memory that the first swap of a process takes at most."""
    command = [sys.executable, __file__, "--peak", name, way]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak(name: str, way: str) -> None:
    """Swap once, and print by how many MB the process was larger meanwhile."""
    torch.set_num_threads(1)
    swap_head(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), 5, torch.zeros(2, 8))  # what is loaded once
    model = build(name)
    inputs = torch.zeros(MODELS[name]) if way == "given" else None
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of building the model
    before = psutil.Process().memory_info().rss
    swap_head(model, 5, inputs)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 2**10
    print((peak - before) / 2**20)


def table(costs: Mapping[str, Cost]) -> list[str]:
    """The figures as Markdown."""
    threads = torch.get_num_threads()
    lines = [
        f"Swaps without inputs beside swaps with inputs, batch 2, own resolution, {threads} threads:",
        "",
        "| | forward | with inputs | without | more, in forward passes | memory with | without |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, cost in costs.items():
        times = " | ".join(f"{value * 1e3:.0f} ms" for value in (cost.forward, cost.given, cost.inferred))
        memory = f"{cost.given_mb:.0f} MB | {cost.inferred_mb:.0f} MB"
        lines.append(f"| {name} | {times} | {cost.extra_forwards:.2f} | {memory} |")
    return lines


def main() -> None:
    """Measure and print."""
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
