"""Each test has one result with its outcome, reason and repro command; a bad model affects no other."""

from __future__ import annotations

import shlex
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable

import pytest

from pytest_headswap.results import Result, read_journal

Journal = Callable[..., dict[str, Result]]
Extend = Callable[[str], None]

ZOO = "--headswap-zoo=testzoo"
THREE = "--headswap-checks=output_shape,native_parity,gradient_flow"


def test_a_sound_model_passes_and_its_results_are_complete(project: pytest.Pytester, journal: Journal) -> None:
    result = project.runpytest_inprocess(ZOO, THREE, "--headswap-models=alpha")
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    item = journal()["testzoo::alpha::native_parity"]
    assert (item.zoo, item.model, item.check, item.outcome) == ("testzoo", "alpha", "native_parity", "passed")
    assert (item.evidence, item.message, item.reason, item.family, item.heads) == ("abstract", "", "", "nets", ("fc",))
    assert item.repro == (
        "pytest --headswap-zoo=testzoo --headswap-models=alpha --headswap-checks=native_parity"
        " --headswap-report=headswap-repeat"
    )
    assert 0 < item.seconds < 60
    assert item.peak_memory_mb is not None


def test_the_header_of_the_journal_names_versions_and_options(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, "--headswap-models=alpha")
    header, _ = read_journal(project.path / "headswap-report")
    assert header.versions["testlib"] == "1.2"
    assert header.versions["pytest"] == pytest.__version__
    assert {"torch", "pytest-headswap"} <= header.versions.keys()
    assert header.options["zoo"] == ["testzoo"]


def test_every_model_of_a_mixed_zoo_gets_its_own_outcome(project: pytest.Pytester, journal: Journal) -> None:
    result = project.runpytest_inprocess(ZOO, THREE)
    result.assert_outcomes(passed=10, failed=1, skipped=4, errors=9)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    outcomes: dict[str, list[str]] = {}
    for item in journal().values():
        outcomes.setdefault(item.model, []).append(item.outcome)
    assert outcomes == {
        "alpha": ["passed", "passed", "passed"],
        "beta.v1_5": ["passed", "passed", "passed"],
        "doubled": ["skipped", "skipped", "skipped"],
        "lonely": ["passed", "skipped", "passed"],
        "mismatched": ["passed", "failed", "passed"],
        "raising": ["error", "error", "error"],
        "unbuildable": ["error", "error", "error"],
        "wrong_inputs": ["error", "error", "error"],
    }


def test_a_model_is_built_once_for_all_its_checks_even_if_that_fails(
    project: pytest.Pytester, builds: Callable[[], list[str]]
) -> None:
    project.runpytest_inprocess(ZOO)
    sound = ["alpha", "beta.v1_5", "doubled", "lonely", "mismatched"]
    broken = {"raising": 1, "unbuildable": 2, "wrong_inputs": 1}  # what cannot be built lean may lack memory
    times = Counter(builds())
    assert list(times) == sorted([*sound, *broken])
    assert {times[name] for name in sound} == {1}
    assert {name: times[name] for name in broken} == broken, "not for each check"


def test_a_model_is_released_before_the_next_one_is_built(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(
        "import weakref\n"
        "ALIVE = weakref.WeakSet()\n"
        "class Cyclic(Net):\n"
        "    def __init__(self, num_classes=10):\n"
        "        super().__init__(num_classes)\n"
        "        assert not ALIVE, 'the last model still lives'\n"
        "        self.me = [self]\n"
        "        if num_classes == 10:\n"
        "            ALIVE.add(self)\n"
        "SPECS = {f'm{i}': dict(build=Cyclic) for i in range(4)}\n"
    )
    # in a process of its own: pytester keeps what each hook was called with
    project.runpytest_subprocess(ZOO, "--headswap-checks=output_shape,gradient_flow").assert_outcomes(passed=8)


def test_a_model_that_failed_is_released_too(project: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest(
        "import gc, weakref\n"
        "from pytest_headswap import CheckFailed\n"
        "gc.disable()\n"
        "ALIVE = weakref.WeakSet()\n"
        "class Watched(Net):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        assert not ALIVE, 'the last model still lives'\n"
        "        ALIVE.add(self)\n"
        "def refusing(case):\n"
        "    raise CheckFailed('never')\n"
        "def pytest_headswap_checks(config):\n"
        "    return {'refusing': refusing}\n"
        "SPECS = {f'm{i}': dict(build=Watched) for i in range(3)}\n"
    )
    result = project.runpytest_subprocess(ZOO, "--headswap-checks=refusing")
    result.assert_outcomes(failed=3)


def test_a_failure_is_explained_without_a_traceback(project: pytest.Pytester, journal: Journal) -> None:
    result = project.runpytest_inprocess(ZOO, "--headswap-models=mismatched")
    result.stdout.fnmatch_lines(
        [
            "*_ testzoo mismatched native_parity _*",
            "the state_dict differs from that of mismatched built with 7 classes; missing: weight (1, 7)*",
            "Repeat with: pytest --headswap-zoo=testzoo --headswap-models=mismatched --headswap-checks=native_parity *",
            "FAILED testzoo::mismatched::native_parity*",
        ]
    )
    assert "Traceback" not in result.stdout.str()
    assert "native_parity.py" not in result.stdout.str()
    item = journal()["testzoo::mismatched::native_parity"]
    assert item.message.startswith("the state_dict differs")
    assert item.evidence == "abstract"


def test_an_error_of_the_model_shows_the_line_of_the_model(project: pytest.Pytester, journal: Journal) -> None:
    result = project.runpytest_inprocess(ZOO, "--headswap-models=raising", "--headswap-checks=output_shape")
    result.stdout.fnmatch_lines(
        [
            "*_ ERROR at setup of testzoo raising output_shape _*",
            "?forward_failed? Raising.forward raised RuntimeError in eval mode on inputs of shape (2, 8)*",
            "*conftest.py*in forward",
            '*raise RuntimeError("the forward of this model raises")',
            "Repeat with: pytest *--headswap-models=raising*",
        ]
    )
    assert "module.py" not in result.stdout.str()
    item = journal()["testzoo::raising::output_shape"]
    assert (item.outcome, item.reason, item.evidence) == ("error", "forward_failed", "")


def test_inputs_of_the_wrong_shape_are_an_error_that_names_the_shape(
    project: pytest.Pytester, journal: Journal
) -> None:
    project.runpytest_inprocess(ZOO, "--headswap-models=wrong_inputs")
    assert "on inputs of shape (2, 9)" in journal()["testzoo::wrong_inputs::output_shape"].message


def test_a_build_that_raises_is_an_error_with_its_type(project: pytest.Pytester, journal: Journal) -> None:
    result = project.runpytest_inprocess(ZOO, "--headswap-models=unbuildable", "--headswap-checks=output_shape")
    result.stdout.fnmatch_lines(["ValueError: no such depth", "*conftest.py*in unbuildable"])
    assert "nodes.py" not in result.stdout.str()
    assert journal()["testzoo::unbuildable::output_shape"].message == "ValueError: no such depth"


def test_a_full_traceback_can_be_requested(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(
        ZOO, "--headswap-models=unbuildable", "--headswap-checks=output_shape", "--tb=native"
    )
    result.stdout.fnmatch_lines(["Traceback (most recent call last):", "*build.py*in build_case*"])


def test_a_model_without_a_head_is_skipped_with_its_reason_code(project: pytest.Pytester, journal: Journal) -> None:
    result = project.runpytest_inprocess(ZOO, THREE, "--headswap-models=doubled", "-rs")
    item = journal()["testzoo::doubled::output_shape"]
    assert (item.outcome, item.reason) == ("skipped", "output_from_input")
    assert item.message.startswith("[output_from_input] ")
    result.stdout.fnmatch_lines(["SKIPPED ?3? testzoo: ?output_from_input? *"])
    assert result.ret == 0


def test_a_check_that_does_not_apply_is_skipped_with_its_reason_code(
    project: pytest.Pytester, journal: Journal
) -> None:
    project.runpytest_inprocess(ZOO, "--headswap-models=lonely")
    item = journal()["testzoo::lonely::native_parity"]
    assert (item.outcome, item.reason) == ("skipped", "no_native")
    assert item.message.endswith("TypeError: takes no class count")
    assert item.heads == ("fc",)


def test_the_summary_counts_outcomes_groups_skips_and_names_the_journal(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, THREE).stdout.fnmatch_lines(
        [
            "*= headswap =*",
            "testzoo: 24 results: 10 passed, 1 failed, 4 skipped, 9 error",
            "  skipped 3: ?output_from_input? *",
            "  skipped 1: ?no_native? *",
            f"journal: {project.path}/headswap-report/results.jsonl",
        ]
    )


def _mark(extend_conftest: Extend, mark: str) -> None:
    extend_conftest(
        f"def pytest_collection_modifyitems(items):\n    for item in items:\n        item.add_marker({mark})"
    )


@pytest.mark.parametrize(
    ("mark", "model", "expected"),
    [
        ("pytest.mark.xfail(reason='known')", "mismatched", "xfailed"),
        ("pytest.mark.xfail(reason='known')", "raising", "xfailed"),
        ("pytest.mark.xfail(reason='known', run=False)", "alpha", "xfailed"),
        ("pytest.mark.xfail(reason='known')", "alpha", "xpassed"),
        ("pytest.mark.xfail(reason='known', strict=True)", "alpha", "xpassed"),
        ("pytest.mark.skip(reason='too large')", "alpha", "skipped"),
    ],
)
def test_user_marks_decide_the_outcome(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal, mark: str, model: str, expected: str
) -> None:
    _mark(extend_conftest, mark)
    project.runpytest_inprocess(ZOO, f"--headswap-models={model}", "--headswap-checks=native_parity")
    (item,) = journal().values()
    assert item.outcome == expected
    if expected == "skipped":
        assert item.message == "too large"


def test_a_teardown_that_raises_turns_a_pass_into_an_error(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest("def pytest_runtest_teardown(item):\n    raise OSError('the disk is gone')")
    project.runpytest_inprocess(ZOO, "--headswap-models=alpha", "--headswap-checks=output_shape")
    (item,) = journal().values()
    assert (item.outcome, item.message) == ("error", "OSError: the disk is gone")


def test_the_repro_command_gives_the_same_result_again(project: pytest.Pytester, journal: Journal) -> None:
    project.runpytest_inprocess(ZOO, "--headswap-num-classes=3")
    first = journal()["testzoo::mismatched::native_parity"]
    program, *flags = shlex.split(first.repro)
    assert program == "pytest"
    project.runpytest_inprocess(*flags)
    (again,) = journal("headswap-repeat").values()
    assert (again.nodeid, again.outcome, again.message) == (first.nodeid, first.outcome, first.message)


def test_an_interrupted_run_keeps_its_results(
    project: pytest.Pytester, extend_conftest: Extend, journal: Journal
) -> None:
    extend_conftest(
        "def pytest_runtest_setup(item):\n"
        "    if item.nodeid == 'testzoo::beta.v1_5::native_parity':\n"
        "        pytest.exit('enough')\n"
    )
    result = project.runpytest_inprocess(ZOO, THREE)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert len(journal()) == 4


def test_junit_xml_has_one_case_per_result(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, THREE, "--junitxml=junit.xml")
    cases = list(ET.parse(project.path / "junit.xml").getroot().iter("testcase"))
    assert len(cases) == 24
    assert (cases[0].get("classname"), cases[0].get("name")) == ("testzoo.alpha", "output_shape")


def test_the_builtin_zoo_passes_as_shipped(project: pytest.Pytester, journal: Journal) -> None:
    result = project.runpytest_inprocess("--headswap-zoo=builtin")
    outcomes = result.parseoutcomes()
    assert outcomes.keys() <= {"passed", "skipped"}
    assert outcomes["passed"] > 50
    assert all(item.reason for item in journal().values() if item.outcome == "skipped")
