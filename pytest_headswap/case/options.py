"""Options that determine how a case is built and checked, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, fields

AUTO = "auto"


@dataclass(frozen=True)
class CaseOptions:
    """The validated options of a case.

    Attributes:
        num_classes: class count of the new head.
        evidence: `abstract`, `numeric` or `auto`.
        device: device for real runs: `auto`, `cpu`, or a type such as `cuda` with or without an index.
        timeout: time limit for all checks of the model, in seconds.
        memory_limit: memory budget of the model, such as `2.5GiB`, or `auto`.
        device_import: module that defines the type of device and is imported first; empty if torch does.
    """

    num_classes: int = 7
    evidence: str = AUTO
    device: str = AUTO
    timeout: float = 300
    memory_limit: str = AUTO
    device_import: str = ""

    def flags(self) -> list[str]:
        """Return the command-line options that set the same values; defaults are omitted."""
        changed = [item.name for item in fields(self) if getattr(self, item.name) != item.default]
        return [f"--headswap-{name.replace('_', '-')}={getattr(self, name)}" for name in changed]
