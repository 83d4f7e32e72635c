"""The validated settings of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_headswap.case.options import AUTO
from pytest_headswap.plugin.given_ids import given_ids

if TYPE_CHECKING:
    from pytest_headswap.case.options import CaseOptions
    from pytest_headswap.checks import Check
    from pytest_headswap.expectations.expectations import Expectations
    from pytest_headswap.harness.options import Shard
    from pytest_headswap.harness.sample import Sample
    from pytest_headswap.results.ids import CheckId
    from pytest_headswap.zoo.selection import Selection


ZooScope = Literal["exclusive", "alongside"]
"""`exclusive`: the run consists of the zoos. `alongside`: the zoos are collected along with the tests of the paths."""


@dataclass(frozen=True)
class Settings:
    """The validated settings of a run."""

    this_shard: Selection
    """The models of this machine's shard."""

    selected: Selection
    shard: Shard | None
    checks: tuple[Check, ...]
    options: CaseOptions
    report: Path
    scope: ZooScope
    models: str
    """The patterns or ids as typed."""

    expectations: Expectations
    isolation: str = AUTO
    """How child processes start: `auto`, `fork` or `spawn`."""

    executor: str = "local"
    """Where models run: `local`, or `ray`; after a colon the number of processes, or the address of a cluster."""

    since: tuple[Path, float] | None = None
    """The journal whose results are taken over, and the percentage of models to verify."""

    sample: Sample | None = None
    ctrf: Path | None = None
    """The file for the results as CTRF JSON."""

    annotations: bool = False
    """Whether failures are printed as annotations of GitHub."""

    checks_by_model: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    """The names of the checks of each model, by zoo and model, if ids select them; empty: all checks of all models."""

    @property
    def on_cluster(self) -> bool:
        """Return whether models run on a Ray cluster."""
        return self.executor.partition(":")[0] == "ray"

    @property
    def processes(self) -> int:
        """Return the number of processes of this machine that take models from this one; 0: it runs them itself."""
        kind, _, count = self.executor.partition(":")
        return int(count) if kind == "local" and count else 0

    def checks_of(self, zoo: str, model: str) -> tuple[Check, ...]:
        """Return the selected checks of a model."""
        if not self.checks_by_model:
            return self.checks
        return tuple(check for check in self.checks if check.name in self.checks_by_model[zoo, model])

    def tests_of(self, zoo: str, models: Iterable[str]) -> Iterator[CheckId]:
        """Yield the ids of the selected checks of some models."""
        from pytest_headswap.results.ids import CheckId

        for model in models:
            yield from (CheckId(zoo, model, check.name) for check in self.checks_of(zoo, model))

    @property
    def model_count(self) -> int:
        """Return the number of models in all zoos."""
        return sum(len(names) for _, names in self.this_shard)

    @cached_property
    def devices(self) -> list[str]:
        """Return the devices for real runs, with their names."""
        from pytest_headswap.case.finding import ABSTRACT
        from pytest_headswap.harness.devices_here import describe_devices

        return describe_devices(self.options.device) if self.options.evidence != ABSTRACT else []

    @cached_property
    def repeat_report(self) -> str:
        """Return the report folder for commands that repeat one test. It is never the folder of a larger run."""
        from pytest_headswap.results.ids import REPEAT_REPORT

        here, names = self.report.resolve(), (REPEAT_REPORT, f"{REPEAT_REPORT}-2")
        own = next((name for name in names if here.name == name or here == Path(name).resolve()), "")
        tests = [test for zoo, models in self.this_shard for test in self.tests_of(zoo.name, models)]
        if own and len(tests) == 1:
            return own  # a repeated test uses the same folder again
        return names[1] if own == names[0] else names[0]


CARRIED_OVER = pytest.StashKey[frozenset[str]]()
"""The ids of results that `--headswap-resume` keeps."""


def worker_input(config: pytest.Config, settings: Settings) -> dict[str, Any]:
    """Return, as plain data, what another process needs besides the options to read the same settings."""
    return {
        "headswap_scope": settings.scope,
        "headswap_ids": given_ids(config),
        "headswap_shard": str(settings.shard or ""),
        "headswap_expectations": settings.expectations.to_worker,
    }
