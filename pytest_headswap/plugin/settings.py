"""What was asked of a run, valid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from pytest_headswap.checks import Check
    from pytest_headswap.expectations.expectations import Expectations
    from pytest_headswap.harness.options import CaseOptions, Shard
    from pytest_headswap.zoo.selection import Selected


Scope = Literal["only", "beside"]
"""Whether the zoo is all that runs, or is collected beside the tests of the paths."""


@dataclass(frozen=True)
class Settings:
    """What was asked for, valid."""

    zoos: Selected
    """What runs here: of all that was selected, the part of this machine."""

    whole: Selected
    shard: Shard | None
    checks: tuple[Check, ...]
    options: CaseOptions
    report: Path
    scope: Scope
    models: str
    """The patterns as they were given."""

    expectations: Expectations

    @property
    def model_count(self) -> int:
        """How many models there are in all zoos together."""
        return sum(len(names) for _, names in self.zoos)

    @cached_property
    def repeat_report(self) -> str:
        """The report folder of commands that repeat one test; never that of a run of several tests."""
        from pytest_headswap.results.ids import REPEAT_REPORT

        here, names = self.report.resolve(), (REPEAT_REPORT, f"{REPEAT_REPORT}-2")
        own = next((name for name in names if here.name == name or here == Path(name).resolve()), "")
        if own and self.model_count * len(self.checks) == 1:
            return own  # a repetition is repeated where it was
        return names[1] if own == names[0] else names[0]


TAKEN = pytest.StashKey[frozenset[str]]()
"""The ids of what is taken over."""
