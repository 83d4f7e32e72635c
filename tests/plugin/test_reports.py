"""A run writes its reports next to the journal, shows the worst results, and fills JUnit XML."""

from __future__ import annotations

import importlib
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from pytest_headswap.results import Result

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

ZOO = "--headswap-zoo=testzoo"
TWO = "--headswap-checks=output_shape,native_parity"


def test_the_reports_are_written_next_to_the_journal_and_named(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, TWO, "--headswap-report=deep/here")
    folder = project.path / "deep" / "here"
    assert {path.name for path in folder.iterdir()} == {
        *("results.jsonl", "index.html", "report.css", "summary.md", "architectures"),
    }
    assert len(list((folder / "architectures").iterdir())) == 8
    result.stdout.fnmatch_lines([f"report: {folder}/index.html", f"journal: {folder}/results.jsonl"])


def test_the_summary_shows_the_worst_result_with_its_repro_command(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, TWO)
    lines = result.stdout.lines
    start = lines.index("needs attention, worst first: 4 architectures")
    assert lines[start + 1].startswith("  failed  testzoo::mismatched (native_parity): the state_dict differs")
    assert lines[start + 2] == (
        "          pytest --headswap-zoo=testzoo --headswap-models=mismatched --headswap-checks=native_parity"
        " --headswap-report=headswap-repeat"
    )
    assert lines[start + 3].startswith("  error   testzoo::raising (all 2 checks): [forward_failed] ")
    assert lines[start + 9].startswith("report: ")
    program, *flags = shlex.split(lines[start + 2])
    assert program == "pytest"
    project.runpytest_inprocess(*flags).assert_outcomes(failed=1)


def test_the_table_of_the_worst_results_is_short_and_counts_the_rest(
    project: pytest.Pytester, extend_conftest: Extend
) -> None:
    extend_conftest("SPECS = {f'm{i:02}': dict(build=unbuildable) for i in range(30)}")
    lines = project.runpytest_inprocess(ZOO, TWO, "--tb=no").stdout.lines
    start = lines.index("needs attention, worst first: 30 architectures")
    end = next(place for place, line in enumerate(lines) if line.startswith("report: "))
    assert end - start == 20
    assert lines[end - 1] == "  and 21 more architectures, in the report"
    assert all(len(line) <= 200 for line in lines[start:end])


def test_a_run_without_failures_has_no_table(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, TWO, "--headswap-models=alpha")
    result.stdout.no_fnmatch_line("*needs attention*")
    result.stdout.fnmatch_lines(["report: *"])


def test_a_report_that_cannot_be_written_is_only_a_warning(project: pytest.Pytester, journal: Journal) -> None:
    (project.path / "headswap-report" / "index.html").mkdir(parents=True)
    result = project.runpytest_inprocess(ZOO, TWO, "--headswap-models=alpha")
    assert result.ret == 0
    assert len(journal()) == 2
    result.stdout.fnmatch_lines(["warning: the report was not written: JournalError: cannot write the report to *"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("report: *")


def test_a_bug_in_the_reports_is_only_a_warning(
    project: pytest.Pytester, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    # by its name among the modules: a run of pytester leaves an older one on the package
    module = importlib.import_module("pytest_headswap.report.write")
    monkeypatch.setattr(module, "build_matrix", lambda *_: 1 / 0)
    result = project.runpytest_inprocess(ZOO, TWO, "--headswap-models=alpha")
    assert result.ret == 0
    assert len(journal()) == 2
    result.stdout.fnmatch_lines(["warning: the report was not written: ZeroDivisionError: *"])


def test_collect_only_leaves_the_last_reports_alone(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, TWO, "--headswap-models=alpha")
    before = (project.path / "headswap-report" / "index.html").read_bytes()
    project.runpytest_inprocess(ZOO, "--collect-only")
    assert (project.path / "headswap-report" / "index.html").read_bytes() == before


def test_the_first_result_of_a_model_holds_its_heads(project: pytest.Pytester, journal: Journal) -> None:
    project.runpytest_inprocess(ZOO, TWO)
    results = journal()
    anatomy = results["testzoo::alpha::output_shape"].anatomy
    assert anatomy is not None
    (head,) = anatomy.heads
    assert (head.path, head.kind, head.in_features, head.old_num_classes, head.num_classes) == (
        "fc",
        "linear",
        16,
        10,
        7,
    )
    assert [(step.kind, step.name) for step in head.path_to_output] == [
        ("layer", "backbone"),
        ("operation", "relu"),
        ("head", "fc"),
        ("output", "output"),
    ]
    assert head.evidence
    assert results["testzoo::alpha::native_parity"].anatomy is None
    assert results["testzoo::alpha::native_parity"].heads == ("fc",)
    assert results["testzoo::doubled::output_shape"].anatomy is None


def test_the_heads_are_reported_although_the_first_check_was_not_requested(
    project: pytest.Pytester, journal: Journal
) -> None:
    project.runpytest_inprocess(ZOO, "--headswap-models=alpha", "-k", "native_parity or metadata")
    assert [item.check for item in journal().values() if item.anatomy is not None] == ["native_parity"]


def _properties(project: pytest.Pytester) -> dict[str, dict[str, str]]:
    cases = ET.parse(project.path / "junit.xml").getroot().iter("testcase")
    found = {}
    for case in cases:
        properties = [(item.get("name", ""), item.get("value", "")) for item in case.iter("property")]
        assert len(dict(properties)) == len(properties), "each once"
        found[f"{case.get('classname')}.{case.get('name')}"] = dict(properties)
    return found


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "with-xdist"])
def test_junit_xml_has_the_fields_of_the_journal_as_properties(
    project: pytest.Pytester, journal: Journal, workers: tuple[str, ...]
) -> None:
    if workers:
        pytest.importorskip("xdist")
    run: Callable[..., object] = project.runpytest_subprocess if workers else project.runpytest_inprocess
    models = "--headswap-models=alpha,doubled,mismatched,unbuildable"
    run(ZOO, TWO, models, "--junitxml=junit.xml", *workers)
    properties = _properties(project)
    assert len(properties) == 8
    for item in journal().values():
        found = properties[f"{item.zoo}.{item.model}.{item.check}"]
        for name in ("zoo", "model", "check", "outcome", "evidence", "reason", "message", "family", "repro"):
            assert found.get(name, "") == getattr(item, name), (item.nodeid, name)
        assert found.get("heads", "") == ", ".join(item.heads)
    assert properties["testzoo.mismatched.native_parity"]["outcome"] == "failed"
    assert properties["testzoo.doubled.output_shape"]["reason"] == "output_from_input"
    assert "evidence" not in properties["testzoo.unbuildable.output_shape"]


def test_user_properties_are_kept(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items:\n"
        "        item.user_properties.append(('team', 'vision'))\n"
    )
    project.runpytest_inprocess(ZOO, TWO, "--headswap-models=alpha", "--junitxml=junit.xml")
    found = _properties(project)["testzoo.alpha.output_shape"]
    assert (found["team"], found["outcome"]) == ("vision", "passed")


def test_junit_xml_reports_a_teardown_that_raises(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest("def pytest_runtest_teardown(item):\n    raise OSError('the disk is gone')")
    project.runpytest_inprocess(
        ZOO, "--headswap-models=alpha", "--headswap-checks=output_shape", "--junitxml=junit.xml"
    )
    assert _properties(project)["testzoo.alpha.output_shape"]["outcome"] == "error"
