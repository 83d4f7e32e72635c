"""Measure the plugin's own cost per result: `python benchmarks/plugin_overhead.py`.

Compares 100,000 results of a synthetic zoo, whose models are refused before they are built, with 100,000 plain pytest
tests that skip. Each runs in one process, with torch imported.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from zoo_vs_bare_loop import Cost, measure

RESULTS = 100_000
_CHECKS = 8

ZOO = """
from pytest_headswap.zoo import ModelSpec, Zoo, register

def spec(name):
    return ModelSpec(name, build=dict, example_inputs=dict, skip_reason="it is empty")

register("empty", lambda: Zoo("empty", tuple(f"model_{number:06}" for number in range(MODELS)), spec))
"""
TEST = """
import pytest
import torch

@pytest.mark.parametrize("check", range(CHECKS))
@pytest.mark.parametrize("model", range(MODELS))
def test_empty(model, check):
    pytest.skip("it is empty")
"""


def measure_both(results: int = RESULTS) -> dict[str, Cost]:
    """Measure both; return the costs of `plain` and `zoo`."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = {"plain": Path(temporary, "plain"), "zoo": Path(temporary, "zoo")}
        for folder in folders.values():
            folder.mkdir()
        sizes = f"MODELS, CHECKS = {results // _CHECKS}, {_CHECKS}\n"
        (folders["plain"] / "test_empty.py").write_text(sizes + TEST)
        (folders["zoo"] / "conftest.py").write_text(sizes + ZOO)
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        flags = {"plain": ["-p", "no:headswap"], "zoo": ["--headswap-zoo=empty"]}
        return {name: measure([[*pytest, *flags[name]]], folder) for name, folder in folders.items()}


def table(results: int, costs: Mapping[str, Cost]) -> list[str]:
    """Return the figures as a Markdown table."""
    lines = [
        f"{results:,} empty results in one process, torch imported:",
        "",
        "| | wall | CPU | largest process |",
        "|---|---:|---:|---:|",
    ]
    names = {"plain": "plain pytest tests that skip", "zoo": "a zoo whose models are refused, with all reports"}
    for way, what in names.items():
        lines.append(f"| {what} | {costs[way].wall:.0f} s | {costs[way].cpu:.0f} s | {costs[way].peak_mb:,.0f} MB |")
    return lines


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=RESULTS, help="number of results (default: 100,000)")
    arguments = parser.parse_args()
    print("\n".join(table(arguments.results, measure_both(arguments.results))))


if __name__ == "__main__":
    main()
