"""The expectations of a run. They are read once, so that all xdist workers use the same texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from pytest_headswap.expectations.entry import Entry
from pytest_headswap.expectations.files import ExpectationFiles
from pytest_headswap.expectations.matcher import ExpectationMatcher
from pytest_headswap.expectations.update import RunScope
from pytest_headswap.results.ids import CheckId
from pytest_headswap.results.result import NOT_RUN

OPTION = "--headswap-expectations"
UPDATE = "--headswap-update-expectations"


class WorkerPayload(TypedDict):
    """The texts that the xdist controller sends to its workers, since files may change while workers start."""

    path: str
    typed: str
    texts: dict[str, str]


@dataclass(frozen=True)
class Expectations:
    """The expectations files and their meaning in this run; without a file, nothing is expected.

    Attributes:
        skip_reason: returns, for a zoo and a model, why the zoo refuses the model; empty if it does not.
        refused_code: the reason code of such a refusal.
        run_skipped: whether to run what would normally be skipped, and report the outcome.
    """

    files: ExpectationFiles | None
    texts: dict[str, str]
    scope: RunScope
    matcher: ExpectationMatcher
    skip_reason: Callable[[str, str], str]
    refused_code: str
    run_skipped: bool = False
    update: bool = False

    @property
    def to_worker(self) -> WorkerPayload | None:
        """Return what xdist workers receive."""
        if self.files is None:
            return None
        return {"path": str(self.files.path), "typed": self.files.given_path, "texts": self.texts}

    def not_run_entry(self, test: CheckId) -> Entry | None:
        """Return the entry that excludes a check from running."""
        return next((entry for entry in self.matcher.entries_of(test) if not entry.run), None)

    def normal_skip(self, test: CheckId) -> tuple[str, str]:
        """Return the code and the reason of the skip that `run_skipped` suppresses; empty if there is none."""
        if (entry := self.not_run_entry(test)) is not None:
            return NOT_RUN, f"not run by {entry.where}: {entry.reason}"
        if refusal := self.skip_reason(test.zoo, test.model):
            return self.refused_code, f"refused by the zoo: {refusal}"
        return "", ""

    def skip_code(self, test: CheckId) -> str:
        """Return the reason code with which a check is skipped without running; empty if it runs."""
        return "" if self.run_skipped else self.normal_skip(test)[0]
