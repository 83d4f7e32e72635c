"""The end of an expectation: `until = 2027-01-31`, or `until = {timm = "1.2"}` for the version that has the fix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from packaging.version import InvalidVersion, Version

from pytest_headswap.expectations.condition import ConditionError, Environment

_EXAMPLES = '2027-01-31, the last day, or {timm = "1.2"}, the first version with the fix'


@dataclass(frozen=True)
class Until:
    """The last day of an expectation, or the first version of a library for which it no longer holds."""

    end: date | Version
    library: str = ""

    def __str__(self) -> str:
        return f"with {self.library} {self.end}" if self.library else f"after {self.end}"

    def has_ended(self, environment: Environment) -> bool:
        """Return whether the expectation has ended here. A library that is not installed never ends it.

        Raises:
            ConditionError: the installed version cannot be parsed.
        """
        if isinstance(self.end, date):
            return date.today() > self.end
        installed = environment.version(self.library)
        if installed is None:
            return False
        try:
            return Version(installed) >= self.end
        except InvalidVersion as error:
            raise ConditionError(f"until.{self.library}: the installed version {installed!r} is invalid") from error


def read_until(value: Any) -> Until:
    """Return the end that a TOML value describes.

    Raises:
        ConditionError: the value is neither a day nor a table with one version.
    """
    if isinstance(value, date) and not isinstance(value, datetime):
        return Until(value)
    try:
        if isinstance(value, str):
            return Until(date.fromisoformat(value))
        if isinstance(value, Mapping) and len(value) == 1:
            ((library, version),) = value.items()
            return Until(Version(version), library)
    except (TypeError, ValueError):  # InvalidVersion is a ValueError
        pass
    raise ConditionError(f"until must be {_EXAMPLES}, not {value!r}")
