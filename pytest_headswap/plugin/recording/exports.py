"""Export the journal at the end of a run, for other tools: a CTRF file, and annotations of GitHub."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from pytest_headswap.plugin.recording.recorder import Recorder
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.report.annotations import github_annotations
from pytest_headswap.report.ctrf import ctrf_json
from pytest_headswap.report.output_file import write_output
from pytest_headswap.results import JournalError
from pytest_headswap.results.matrix import build_matrix
from pytest_headswap.results.run import read_run


class Exports:
    """Writes the exports that the options ask for. Used only in the controller, after the journal is closed."""

    def __init__(self, recorder: Recorder, settings: Settings) -> None:
        self.recorder, self.ctrf, self.annotations = recorder, settings.ctrf, settings.annotations
        self._lines: list[str] = []
        self._warning = ""

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Read the journal, and write the file."""
        journal = self.recorder.journal
        if journal is None:
            return
        try:
            run = read_run(journal.path)
            if self.ctrf is not None:
                write_output(self.ctrf, ctrf_json(run, datetime.now(timezone.utc)))
                self._lines.append(f"ctrf: {self.ctrf}")
        except JournalError as error:  # a run is valid without exports, so any problem is only reported
            self._warning = f"warning: the results were not exported: {error}"
            return
        if self.annotations:
            self._lines += github_annotations(build_matrix(run.header, run.results))

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the path of the file, and the annotations, which GitHub reads from the output."""
        for line in self._lines:
            terminalreporter.write_line(line)
        if self._warning:
            terminalreporter.write_line(self._warning, yellow=True)
