"""The option `--headswap-sample`: one model of each family, or a stable part of the models."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_headswap.harness.options import OptionError, parse_percentage

FAMILY = "family"


@dataclass(frozen=True)
class Sample:
    """One model of each family, a percentage of the models, or a number of models.

    Attributes:
        text: the option as typed.
    """

    text: str
    percentage: float = 0
    number: int = 0

    def __str__(self) -> str:
        return "one model of each family" if self.text == FAMILY else self.text


def parse_sample(value: str, option_name: str) -> Sample | None:
    """Parse `value` as a sample; return None if it is empty.

    Raises:
        OptionError: it is neither `family`, a percentage nor a positive whole number.
    """
    if not value:
        return None
    if value == FAMILY:
        return Sample(value)
    if re.fullmatch(r"[1-9]\d*", value, re.ASCII):
        return Sample(value, number=int(value))
    if value.endswith("%"):
        return Sample(value, percentage=parse_percentage(value, option_name))
    raise OptionError(f"{option_name} must be family, a percentage such as 5%, or a number of models, not {value!r}")
