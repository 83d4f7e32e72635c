"""Take models of zoos by arguments such as `timm:7`, run checks over them, and count the outcomes for a table."""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from pytest_headswap import ModelSpec, Zoo, __version__, load_zoo
from pytest_headswap._text import single_line, truncate
from pytest_headswap.report import Result, read_journal
from pytest_headswap.zoo import ZooError

FAILURES = ("failed", "error", "crashed", "timeout")
"""Outcomes that somebody has to look into."""
_MAX_MESSAGE = 300  # characters of a message in a table


@dataclass(frozen=True)
class Sample:
    """Every `step`-th model of a zoo, from the one with index `start`."""

    zoo: Zoo
    step: int
    start: int

    def __str__(self) -> str:
        if self.start:
            return f"{self.zoo.name}:{self.step}:{self.start}"
        return f"{self.zoo.name}:{self.step}" if self.step > 1 else self.zoo.name

    def specs(self, max_parameters: float = math.inf) -> Iterator[ModelSpec]:
        """Yield the models that have no more parameters, or that cannot be counted on the meta device."""
        for name in self.zoo.names[self.start :: self.step]:
            spec = self.zoo[name]
            if max_parameters == math.inf or _parameter_count(spec) <= max_parameters:
                yield spec


def _parameter_count(spec: ModelSpec) -> int:
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in spec.build().parameters())
    except Exception:  # noqa: BLE001 - some initialisers need values, and some zoos refuse
        return 0


def sample(text: str) -> Sample:
    """Read `ZOO[:STEP[:START]]`.

    Raises:
        argparse.ArgumentTypeError: the zoo is unknown, or a number is missing or too small.
    """
    name, *numbers = text.split(":")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers) or numbers[:1] == ["0"]:
        raise argparse.ArgumentTypeError(f"{text!r} is not ZOO[:STEP[:START]], such as timm:7 or timm:7:3")
    step, start = (*map(int, numbers), *(1, 0)[len(numbers) :])
    try:
        return Sample(load_zoo(name), step, start)
    except ZooError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def origin(module: str, samples: Sequence[Sample], *flags: str, versions: Mapping[str, str] | None = None) -> list[str]:
    """Return lines that say which command wrote a table, when, and with which versions."""
    versions = {"pytest-headswap": __version__, "torch": torch.__version__, **(versions or {})}
    for item in samples:
        versions |= item.zoo.versions
    listed = ", ".join(f"{library} {version.partition('+')[0]}" for library, version in versions.items())
    return [
        f"Written by `python -m conformance.{module} {' '.join([*map(str, samples), *flags])}` on",
        f"{datetime.now(timezone.utc):%Y-%m-%d}, with",
        f"{listed}.",
    ]


def run(item: Sample, checks: str, max_parameters: float, folder: Path, flags: Sequence[str]) -> None:
    """Run the checks over the models of a sample. The folder then has the results."""
    run_models(item.zoo.name, [spec.name for spec in item.specs(max_parameters)], checks, folder, flags)


def run_models(zoo: str, names: Sequence[str], checks: str, folder: Path, flags: Sequence[str]) -> None:
    """Run the checks over models of a zoo, or continue an interrupted run. The folder then has the results."""
    command = [sys.executable, "-m", "pytest", "-q", f"--headswap-zoo={zoo}", f"--headswap-models={','.join(names)}"]
    more = [f"--headswap-checks={checks}", f"--headswap-expectations={Path(__file__).parent}"]
    subprocess.run([*command, *more, f"--headswap-report={folder}", "--headswap-resume", *flags], check=False)


def results_in(report: Path) -> list[Result]:
    """Return the results of all runs in a folder, the last one of each check of a model."""
    found = [result for file in sorted(report.glob("*/results.jsonl")) for result in read_journal(file.parent)[1]]
    return list({(result.zoo, result.model, result.check): result for result in found}.values())


def outcomes(results: Sequence[Result], checks: Sequence[str]) -> list[str]:
    """Return a table of the outcomes by zoo and check."""
    lines = ["| zoo | check | models | passed | expected failures | skipped | failed |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    counts: dict[tuple[str, str], Counter[str]] = {}
    for result in results:
        counts.setdefault((result.zoo, result.check), Counter())[result.outcome] += 1
    for (zoo, check), found in sorted(counts.items(), key=lambda item: (item[0][0], checks.index(item[0][1]))):
        failed = sum(found[outcome] for outcome in FAILURES)
        numbers = (found.total(), found["passed"], found["xfailed"], found["skipped"], failed)
        lines.append(f"| {zoo} | {check} | {' | '.join(map(str, numbers))} |")
    return lines


def what_did_not_pass(results: Sequence[Result], checks: Sequence[str]) -> list[str]:
    """Return a line for each reason why models did not pass, with the models."""
    alike: dict[tuple[str, str, str, str], list[str]] = {}
    for result in sorted(results, key=lambda result: (result.zoo, checks.index(result.check), result.model)):
        if result.outcome != "passed":
            named = re.sub(rf"\b{re.escape(result.model)}\b", "MODEL", single_line(result.message))
            message = truncate(named, _MAX_MESSAGE)
            message += f". Expected: {result.expectation}" if result.expectation else ""
            alike.setdefault((result.zoo, result.check, result.outcome, message), []).append(f"`{result.model}`")
    return [
        f"- {zoo} {check} ({outcome}) {', '.join(models)}: {message}"
        for (zoo, check, outcome, message), models in alike.items()
    ] or ["None."]
