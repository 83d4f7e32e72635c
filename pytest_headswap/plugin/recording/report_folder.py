"""Lock the report folder of a run."""

from __future__ import annotations

import shlex

import pytest

from pytest_headswap.plugin.settings import Settings
from pytest_headswap.results import JournalError
from pytest_headswap.results.lock import FolderLock
from pytest_headswap.results.writer import lock_folder


def lock_report_folder(config: pytest.Config, settings: Settings) -> FolderLock | None:
    """Lock the report folder until pytest ends; return None if no check runs, so that nothing is written.

    Raises:
        pytest.UsageError: another run has locked the folder, or it is not writable.
    """
    if config.option.collectonly or getattr(config.option, "setuponly", False):
        return None
    try:
        lock = lock_folder(settings.report, shlex.join(["pytest", *map(str, config.invocation_params.args)]))
    except JournalError as error:
        raise pytest.UsageError(f"{error} with --headswap-report") from error
    config.add_cleanup(lock.release)
    return lock
