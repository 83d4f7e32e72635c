"""Write the shipped costs from journals of whole zoos: `python benchmarks/measure_costs.py JOURNAL...`.

Make each journal with `pytest --headswap-zoo=timm -n 2`, all checks, and nothing else running on the machine.
If several journals contain a model, the last one counts. Models that crashed, timed out, or lack a check are left out.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

from pytest_headswap.plugin.planning.costs import FOLDER, Cost
from pytest_headswap.report import JournalHeader, Result, read_journal

_OURS = ("pytest", "pytest-headswap")  # their versions do not affect costs


def costs_of(header: JournalHeader, results: list[Result]) -> dict[str, dict[str, Cost]]:
    """Return the costs of each zoo in a journal."""
    by_model: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        by_model[result.zoo, result.model].append(result)
    costs: dict[str, dict[str, Cost]] = defaultdict(dict)
    for (zoo, model), of_model in by_model.items():
        complete = len(of_model) == len(header.options["checks"])
        if complete and all(result.outcome not in ("crashed", "timeout") for result in of_model):
            peaks = [result.peak_memory_mb for result in of_model if result.peak_memory_mb is not None]
            costs[zoo][model] = Cost(sum(result.seconds for result in of_model), max(peaks, default=None))
    return costs


def measure(journals: list[Path], folder: Path) -> list[Path]:
    """Write one file per zoo in the journals, and return their paths."""
    versions: dict[str, dict[str, str]] = {}
    costs: dict[str, dict[str, Cost]] = defaultdict(dict)
    for path in journals:
        header, results = read_journal(path)
        for zoo, of_zoo in costs_of(header, results).items():
            costs[zoo].update(of_zoo)
            versions[zoo] = {name: number for name, number in header.versions.items() if name not in _OURS}
    written = []
    for zoo, of_zoo in costs.items():
        data = {
            "versions": versions[zoo],
            "models": {model: cost.rounded() for model, cost in sorted(of_zoo.items())},
        }
        path = folder / f"{zoo}.json"
        path.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")
        written.append(path)
        print(f"{path}: {len(of_zoo)} models, {sum(cost.seconds for cost in of_zoo.values()) / 60:.1f} minutes")
    return written


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("journals", nargs="+", type=Path, metavar="JOURNAL")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    measure(arguments.journals, arguments.folder)


if __name__ == "__main__":
    main()
