"""The expectations of a run. They are read once, so that all xdist workers use the same texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from pytest_headswap.expectations.entry import Entry
from pytest_headswap.expectations.files import Store
from pytest_headswap.expectations.judge import NOT_RUN, Judge, Seen, Verdict
from pytest_headswap.expectations.update import Scope
from pytest_headswap.results.ids import CheckId

OPTION = "--headswap-expectations"
UPDATE = "--headswap-update-expectations"


class Sent(TypedDict):
    """What the xdist controller sends to its workers: the files may change while they start."""

    path: str
    typed: str
    texts: dict[str, str]


@dataclass(frozen=True)
class Expectations:
    """The expectations files and their meaning in this run; without a file, nothing is expected.

    Attributes:
        skip_reason: returns, for a zoo and a model, why the zoo refuses the model; empty if it does not.
        refused: the reason code of such a refusal.
        audit: whether to run what would normally be skipped, and report the outcome.
    """

    store: Store | None
    texts: dict[str, str]
    scope: Scope
    judge: Judge
    skip_reason: Callable[[str, str], str]
    refused: str
    audit: bool = False
    update: bool = False

    @property
    def sent(self) -> Sent | None:
        """Return what xdist workers receive."""
        if self.store is None:
            return None
        return {"path": str(self.store.path), "typed": self.store.typed, "texts": self.texts}

    def verdict(self, seen: Seen) -> Verdict:
        """Match one observation against the entries that cover it."""
        return self.judge.verdict(seen)

    def not_run(self, test: CheckId) -> Entry | None:
        """Return the entry that excludes a check from running."""
        return next((entry for entry in self.judge.entries(test) if not entry.run), None)

    def keeps(self, test: CheckId) -> str:
        """Return the reason code with which a check is skipped without running; empty if it runs."""
        if self.audit:
            return ""
        if self.not_run(test) is not None:
            return NOT_RUN
        return self.refused if self.skip_reason(test.zoo, test.model) else ""

    def audited(self, test: CheckId) -> str:
        """Return why a check would be skipped without an audit; empty if it would run, or if there is no audit."""
        if not self.audit:
            return ""
        if refusal := self.skip_reason(test.zoo, test.model):
            return f"refused by the zoo: {refusal}"
        entry = self.not_run(test)
        return f"not run by {entry.where}: {entry.reason}" if entry is not None else ""
