"""A run says what is planned and how far it is, and learns what models take for the next one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_headswap._plugin import learnt, progress
from pytest_headswap._plugin.plan import Plan, told_duration, worker_count
from pytest_headswap._plugin.progress import Progress
from pytest_headswap.zoo import costs

ZOO = "--headswap-zoo=testzoo"
CHECKS = "--headswap-checks=output_shape,metadata"
TWO = "--headswap-models=alpha,lonely"
LINE = re.compile(
    r"^headswap: (\d) of (\d) models done, about (a minute|\d+ minutes|\d+ h \d+ min) left$", re.MULTILINE
)

Extend = Callable[[str], None]


@pytest.fixture
def shipped(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs for `testzoo`, as if they came with the package."""
    folder = tmp_path_factory.mktemp("costs")
    models = {"alpha": [600, 100], "beta.v1_5": [60, 100], "lonely": [1200, 100]}
    (folder / "testzoo.json").write_text(json.dumps({"versions": {"testlib": "1.2"}, "models": models}))
    monkeypatch.setattr(costs, "FOLDER", folder)


def _learnt(project: pytest.Pytester) -> dict[str, dict[str, Any]]:
    path = project.path / ".pytest_cache" / "v" / "headswap" / "costs" / "testzoo"
    found: dict[str, dict[str, Any]] = json.loads(json.loads(path.read_text()))
    return found


# --- the plan


@pytest.mark.usefixtures("shipped")
def test_the_header_says_what_is_planned_and_how_long_it_takes(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, TWO, "--collect-only")
    result.stdout.fnmatch_lines(
        [
            "headswap: testzoo (2 of 8 *",
            "headswap: plan: 2 models, 16 checks, numeric where memory allows, about 30 minutes",
        ]
    )


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("flag", [CHECKS, "--headswap-evidence=structure"])
def test_a_run_that_asks_for_less_than_was_measured_takes_at_most_as_long(project: pytest.Pytester, flag: str) -> None:
    result = project.runpytest_inprocess(ZOO, TWO, "--collect-only", flag)
    result.stdout.fnmatch_lines(["headswap: plan: 2 models, *, at most about 30 minutes"])


def test_what_was_learnt_of_a_zoo_that_nobody_else_knows_is_known(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha")
    result = project.runpytest_inprocess(ZOO, CHECKS, TWO, "--collect-only")
    result.stdout.fnmatch_lines(["headswap: plan: 2 models, 4 checks, numeric where memory allows, about a minute"])


@pytest.mark.usefixtures("shipped")
def test_workers_share_the_time_but_not_the_longest_model(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    flags = ["--headswap-checks=metadata", "--headswap-models=alpha,lonely", "-n", "2"]
    result = project.runpytest_inprocess(ZOO, *flags)
    result.stdout.fnmatch_lines(["headswap: plan: 2 models, 2 checks, *, at most about 20 minutes on 2 workers"])


def test_a_zoo_that_nobody_knows_takes_nobody_knows_how_long(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, "--collect-only", "--headswap-evidence=numeric")
    result.stdout.fnmatch_lines(["headswap: plan: 8 models, 64 checks, numeric"])


def test_a_run_without_a_model_needs_no_time() -> None:
    assert Plan({}, "known").duration(2) == 0
    assert Plan({"a": 3.0, "b": 1.0, "c": 4.0}, "known").duration(2) == 4


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "a minute"),
        (89, "a minute"),
        (91, "2 minutes"),
        (7169, "119 minutes"),
        (7200, "2 h 0 min"),
        (1e5, "27 h 47 min"),
    ],
)
def test_durations_are_told_as_precisely_as_they_are_known(seconds: float, told: str) -> None:
    assert told_duration(seconds) == told


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({"dist": "no", "tx": ["popen"] * 3}, 1),
        ({"dist": "each", "tx": ["popen"] * 3}, 1),
        ({"dist": "load", "tx": ["popen"] * 3}, 3),
        ({"dist": "load", "tx": ["3*popen", "ssh=host//python=python3"]}, 4),
    ],
)
def test_workers_are_counted(options: dict[str, Any], count: int) -> None:
    config: Any = SimpleNamespace(getoption=options.get)
    assert worker_count(config) == count


# --- what is learnt


def test_a_run_leaves_what_its_models_took_for_the_next(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, TWO)
    ((kind, models),) = _learnt(project).items()
    assert kind == "testlib 1.2, auto, auto, output_shape, metadata"
    assert models.keys() == {"alpha", "lonely"}
    assert all(0 < seconds < 60 and peak > 1 for seconds, peak in models.values())
    result = project.runpytest_inprocess(ZOO, CHECKS, TWO)
    result.stdout.fnmatch_lines(["headswap: plan: 2 models, 4 checks, *, about a minute"])


def test_a_later_run_adds_to_what_is_known_and_other_questions_are_kept_apart(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha")
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=lonely")
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=doubled", "--headswap-evidence=structure")
    assert [list(models) for models in _learnt(project).values()] == [["doubled"], ["lonely", "alpha"]]


def test_a_model_of_which_a_check_did_not_run_teaches_nothing(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, TWO, "--deselect", "testzoo::alpha::metadata")
    ((_, models),) = _learnt(project).items()
    assert models.keys() == {"lonely"}


def test_what_is_kept_is_bounded(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learnt, "MOST_MODELS", 3)
    monkeypatch.setattr(learnt, "MOST_KINDS", 2)
    project.runpytest_inprocess(ZOO, "--headswap-checks=metadata", TWO)
    project.runpytest_inprocess(ZOO, "--headswap-checks=state_dict", TWO)
    project.runpytest_inprocess(ZOO, "--headswap-checks=metadata", "--headswap-models=doubled,beta*")
    project.runpytest_inprocess(ZOO, "--headswap-checks=round_trip", TWO)
    assert [list(models) for models in _learnt(project).values()] == [
        ["alpha", "lonely"],
        ["beta.v1_5", "doubled", "alpha"],
    ]


def test_with_the_cache_disabled_nothing_is_learnt_and_nothing_fails(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha", "-p", "no:cacheprovider")
    assert result.ret == 0
    assert not (project.path / ".pytest_cache").exists()


@pytest.mark.parametrize("text", ["", "7", '"7"', '"{}"', '"{\\"a"', "[1]", '"[1]"'])
def test_a_cache_that_holds_something_else_is_written_anew(project: pytest.Pytester, text: str) -> None:
    path = project.path / ".pytest_cache" / "v" / "headswap" / "costs" / "testzoo"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha").ret == 0
    assert len(_learnt(project)) == 1


def test_costs_in_the_cache_that_make_no_sense_are_left_alone(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha")
    path = project.path / ".pytest_cache" / "v" / "headswap" / "costs" / "testzoo"
    path.write_text(path.read_text().replace("[", "[null,"))
    assert project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha").ret == 0
    ((_, models),) = _learnt(project).items()
    assert len(models["alpha"]) == 2


def test_the_zoo_of_a_file_does_not_leave_the_cache(project: pytest.Pytester) -> None:
    code = "import torch\nZOO = {'ä': lambda num_classes=3: torch.nn.Linear(4, num_classes)}\n"
    (project.path / "zoo.py").write_text(code)
    result = project.runpytest_inprocess(f"--headswap-zoo={project.path}/zoo.py:ZOO", "--headswap-checks=metadata")
    assert result.ret == 0
    (path,) = (project.path / ".pytest_cache" / "v" / "headswap" / "costs").iterdir()
    assert re.fullmatch("[0-9a-f]{16}", path.name)


def test_a_listing_of_tests_teaches_nothing(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(ZOO, CHECKS, "--collect-only")
    assert not (project.path / ".pytest_cache" / "v" / "headswap").exists()


def test_parts_do_not_depend_on_what_was_learnt_here(project: pytest.Pytester) -> None:
    shard = [ZOO, "--headswap-checks=metadata", "--headswap-shard=1/2", "--collect-only", "-q"]
    before = project.runpytest_inprocess(*shard).outlines
    models = {name: [1000.0 if name == "alpha" else 0.1, 1] for name in ("alpha", "beta.v1_5", "lonely", "doubled")}
    path = project.path / ".pytest_cache" / "v" / "headswap" / "costs" / "testzoo"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(json.dumps({"testlib 1.2, auto, auto, metadata": models})))
    after = project.runpytest_inprocess(*shard).outlines
    told = [line for line in before if "::" in line]
    assert told
    assert told == [line for line in after if "::" in line]


# --- progress


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line after each test."""
    monkeypatch.setattr(progress, "INTERVAL", 0.0)


@pytest.mark.usefixtures("often", "shipped")
@pytest.mark.parametrize("flags", [[], ["-v"], ["-q"], ["-n", "2"], ["-n", "2", "-v"]], ids=" ".join)
def test_progress_stands_in_lines_of_its_own(project: pytest.Pytester, flags: list[str]) -> None:
    if "-n" in flags:
        pytest.importorskip("xdist")
    result = project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha,beta*,lonely", *flags)
    assert result.ret == 0
    told = LINE.findall(result.stdout.str())
    assert {models for _, models, _ in told} == {"3"}
    done = [int(done) for done, _, _ in told]
    if "-n" in flags:
        assert done == sorted(done), "how many are done when depends on the workers"
    else:
        assert done == [0, 1, 1, 2, 2], "behind the last test, pytest has something to say itself"
    assert "headswap: " not in re.sub(r"(?m)^headswap: ", "", result.stdout.str()), "each begins a line"
    if "-v" not in flags:
        dots = "".join(re.findall(r"^(?:testzoo )?([.]+)(?: +\[ *\d+%\])?$", result.stdout.str(), re.MULTILINE))
        assert dots == "......", "no dot is lost"


@pytest.mark.usefixtures("often")
def test_nothing_is_said_where_silence_is_asked_for(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(ZOO, CHECKS, TWO, "-q", "-q")
    assert "models done" not in result.stdout.str()
    assert project.runpytest_inprocess(ZOO, CHECKS, TWO, "-p", "no:terminal").ret == 0


def test_a_short_run_says_nothing_of_its_progress(project: pytest.Pytester) -> None:
    assert "models done" not in project.runpytest_inprocess(ZOO, CHECKS, TWO).stdout.str()


@pytest.mark.usefixtures("often")
def test_a_crash_counts_as_done(project: pytest.Pytester, extend_conftest: Extend) -> None:
    pytest.importorskip("xdist")
    extend_conftest("SPECS = {'a': dict(build=Net), 'crashing': dict(build=crash), 'z': dict(build=Net)}")
    result = project.runpytest_inprocess(ZOO, CHECKS, "-n", "2")
    assert max(int(done) for done, _, _ in LINE.findall(result.stdout.str())) == 2, "before the last test"


class Clock:
    """Time that passes only when it is told to."""

    now = 100.0

    def perf_counter(self) -> float:
        """As in the module `time`."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the progress."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def _progress(seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> tuple[Progress, list[str]]:
    monkeypatch.setattr(progress, "plan_of", lambda config, settings: Plan(seconds, "known"))
    nothing: Any = None
    made, lines = Progress(nothing, nothing), list[str]()
    monkeypatch.setattr(made, "_write", lines.append)
    return made, lines


def test_the_time_left_follows_expected_costs_and_the_clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made, lines = _progress({"z::long": 90.0, "z::short": 10.0}, monkeypatch)
    made.pytest_xdist_node_collection_finished(
        ["own.py::test", *(f"z::{m}::{c}" for m in ("long", "short") for c in "ab")]
    )
    clock.now += 90
    made.pytest_runtest_logfinish("z::long::a")
    assert lines == ["headswap: 0 of 2 models done, about 2 minutes left"], "45 of 100 took 90 seconds: 110 are left"
    clock.now += 29
    made.pytest_runtest_logfinish("z::long::b")
    assert len(lines) == 1, "no more than one in thirty seconds"
    clock.now += 6000
    made.pytest_runtest_logfinish("own.py::test")
    assert lines[1:] == ["headswap: 1 of 2 models done, about 11 minutes left"]
    made.pytest_xdist_node_collection_finished(["z::short::a"])
    assert made.models == 2, "the second worker collects the same"


def test_a_hundred_thousand_results_cost_nothing_to_speak_of(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    ids = [f"z::m{model}::{check}" for model in range(12_500) for check in range(8)]
    made, lines = _progress({f"z::m{model}": 1.0 for model in range(12_500)}, monkeypatch)
    start = time.process_time()
    made.pytest_xdist_node_collection_finished(ids)
    for nodeid in ids:
        made.pytest_runtest_logfinish(nodeid)
        clock.now += 1
    assert time.process_time() - start < 2.0
    assert 3000 < len(lines) < 3500
    assert lines[-1].startswith("headswap: 12,49")


def test_the_cache_can_be_anywhere(project: pytest.Pytester, tmp_path: Path) -> None:
    project.makeini(f"[pytest]\ncache_dir = {tmp_path}/elsewhere\n")
    project.runpytest_inprocess(ZOO, CHECKS, "--headswap-models=alpha")
    assert (tmp_path / "elsewhere" / "v" / "headswap" / "costs" / "testzoo").is_file()
