"""Pytest listens for log records in the tests of a project, and not where the model is in another process."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="models have a process of their own on Linux alone")

NOTING = """
import _pytest.logging
real = _pytest.logging.LoggingPlugin._runtest_for

def noting(self, item, when):
    with open("listened.txt", "a") as file:
        file.write(f"{item.nodeid} {when}\\n")
    return real(self, item, when)

_pytest.logging.LoggingPlugin._runtest_for = noting

def pytest_terminal_summary(terminalreporter):
    kept = [report for reports in terminalreporter.stats.values() for report in reports]
    for report in kept:
        if report.nodeid.startswith("testzoo::alpha::metadata"):
            print("kept", report.when, dict(report.user_properties).get("check"), "alpha" in report.keywords)
"""


def _listened(project: pytest.Pytester, *flags: str) -> list[str]:
    (project.path / "conftest.py").open("a").write(NOTING)
    project.makeini("[pytest]\nheadswap_zoo = testzoo")
    done = project.runpytest_subprocess(*flags)
    done.assert_outcomes(passed=3)
    done.stdout.fnmatch_lines(["kept setup None True", "kept teardown metadata True", "kept call metadata True"])
    return (project.path / "listened.txt").read_text().splitlines()


ALPHA, BETA, OWN = "testzoo::alpha::metadata", "testzoo::beta.v1_5::metadata", "test_own.py::test_mine"
PHASES = ("setup", "call", "teardown")


@pytest.mark.parametrize("flag", ["", "log_cli=true", "log_file=records.txt"])
def test_models_elsewhere_are_not_listened_to_unless_records_are_asked_for(project: pytest.Pytester, flag: str) -> None:
    flags = ["--headswap-models=alpha,beta*", "--headswap-checks=metadata", *(["-o", flag] if flag else [])]
    listened = _listened(project, *flags)
    expected = [OWN, ALPHA, BETA] if flag else [OWN]
    assert sorted(listened) == sorted(f"{test} {phase}" for test in expected for phase in PHASES)


def test_models_in_the_process_of_pytest_are_listened_to(project: pytest.Pytester) -> None:
    listened = _listened(project, "--headswap-models=alpha,beta*", "--headswap-checks=metadata", "--pdb")
    assert {line.split()[0] for line in listened} == {OWN, ALPHA, BETA}
