"""What a run expects: read when it begins, in the same words for each worker of xdist."""

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
    """What the controller of xdist tells its workers: the files may change while they start."""

    path: str
    typed: str
    texts: dict[str, str]


@dataclass(frozen=True)
class Expectations:
    """The files and what they say here; without a file, nothing is expected.

    Attributes:
        skip_reason: why the zoo keeps a model from being run, by the names of both; empty where it does not.
        refused: the reason code of that.
        audit: what is not run otherwise is run, and what is found is told.
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
        """What workers are told."""
        if self.store is None:
            return None
        return {"path": str(self.store.path), "typed": self.store.typed, "texts": self.texts}

    def verdict(self, seen: Seen) -> Verdict:
        """What is to be made of something that was found."""
        return self.judge.verdict(seen)

    def not_run(self, test: CheckId) -> Entry | None:
        """The entry that keeps a check from being made."""
        return next((entry for entry in self.judge.entries(test) if not entry.run), None)

    def keeps(self, test: CheckId) -> str:
        """The reason code with which a check is skipped unseen; empty where it is made."""
        if self.audit:
            return ""
        if self.not_run(test) is not None:
            return NOT_RUN
        return self.refused if self.skip_reason(test.zoo, test.model) else ""

    def audited(self, test: CheckId) -> str:
        """Why a check would not be made if this were no audit; empty where it would, or where this is none."""
        if not self.audit:
            return ""
        if refusal := self.skip_reason(test.zoo, test.model):
            return f"refused by the zoo: {refusal}"
        entry = self.not_run(test)
        return f"not run by {entry.where}: {entry.reason}" if entry is not None else ""
