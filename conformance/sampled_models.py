"""Take models of zoos by arguments such as `timm:7`, for the commands that write a table about them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import torch

from pytest_headswap import ModelSpec, Zoo, __version__, load_zoo
from pytest_headswap.zoo import ZooError


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


def origin(module: str, samples: Sequence[Sample], *flags: str) -> list[str]:
    """Return lines that say which command wrote a table, when, and with which versions."""
    versions = {"pytest-headswap": __version__, "torch": torch.__version__}
    for item in samples:
        versions |= item.zoo.versions
    listed = ", ".join(f"{library} {version.partition('+')[0]}" for library, version in versions.items())
    return [
        f"Written by `python -m conformance.{module} {' '.join([*map(str, samples), *flags])}` on",
        f"{datetime.now(timezone.utc):%Y-%m-%d}, with",
        f"{listed}.",
    ]
