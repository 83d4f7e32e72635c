"""Run all benchmarks and write their figures to a file: `python benchmarks`.

Each figure and its baseline are measured in the same run, because machines differ and drift.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import executors
import inferred_inputs
import plugin_overhead
import swap_cost
import zoo_vs_bare_loop

FIGURES = Path(__file__).with_name("FIGURES.md")


def main() -> None:
    """Run all benchmarks, print the figures, and write them to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=zoo_vs_bare_loop.EVERY, help="measure every Nth model of timm")
    parser.add_argument("--output", type=Path, default=FIGURES, help="file to write (default: benchmarks/FIGURES.md)")
    arguments = parser.parse_args()
    sizes = zoo_vs_bare_loop.sample(arguments.every)
    costs = {}
    for way, cost in zoo_vs_bare_loop.measure_ways(sizes):
        print(way, cost, flush=True)
        costs[way] = cost
    often = max(1, arguments.every * executors.EVERY // zoo_vs_bare_loop.EVERY)
    by_executor = executors.measure_each(often)
    empty = plugin_overhead.measure_both()
    swaps = {name: swap_cost.measure(name) for name in swap_cost.MODELS}
    inputs = {name: inferred_inputs.measure(name) for name in inferred_inputs.MODELS}
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "pytest"))
    machine = f"{os.cpu_count()} CPUs, {platform.system()}, Python {platform.python_version()}, {libraries}"
    lines = [
        "# Figures",
        "",
        f"Written by `python benchmarks` on {time.strftime('%Y-%m-%d')}: {machine}.",
        "",
        "## All checks of a zoo",
        "",
        *zoo_vs_bare_loop.table(len(sizes), costs),
        "",
        *executors.table(often, by_executor),
        "",
        *plugin_overhead.table(plugin_overhead.RESULTS, empty),
        "",
        "## A swap",
        "",
        *swap_cost.table(swaps),
        "",
        *inferred_inputs.table(inputs),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
