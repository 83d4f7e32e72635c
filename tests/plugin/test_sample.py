"""`--headswap-sample` runs one model of each family, or a stable part of the models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_headswap.harness.options import OptionError
from pytest_headswap.harness.sample import parse_sample
from pytest_headswap.plugin.planning.sample import sample_of_selection
from pytest_headswap.results import Result, read_journal
from pytest_headswap.zoo.spec import ModelSpec, Zoo

Journal = Callable[..., dict[str, Result]]


def _sample(names: set[str], text: str, family: Callable[[str], str] = lambda name: "") -> set[str]:
    zoo = Zoo("some", tuple(names), lambda name: ModelSpec(name, dict, family=family(name)))  # type: ignore[arg-type]
    sample = parse_sample(text, "--headswap-sample")
    assert sample is not None
    ((_, chosen),) = sample_of_selection(((zoo, zoo.names),), sample)
    return set(chosen)


NAMES = st.sets(st.text(min_size=1, max_size=5), min_size=1, max_size=30)


@given(NAMES, NAMES, st.integers(1, 100))
def test_a_percentage_takes_the_same_models_when_others_are_added(
    names: set[str], more: set[str], percentage: int
) -> None:
    before, after = _sample(names, f"{percentage}%"), _sample(names | more, f"{percentage}%")
    assert before
    assert before <= names
    assert after & names == before or len(before) == 1 or len(after) == 1
    assert _sample(names, "100%") == names


def test_a_percentage_is_about_this_part() -> None:
    names = {f"model_{number}" for number in range(2000)}
    assert 150 < len(_sample(names, "10%")) < 250
    assert _sample(names, "5%") < _sample(names, "10%")


@given(NAMES, st.integers(1, 40))
def test_a_number_takes_this_many(names: set[str], number: int) -> None:
    assert len(_sample(names, str(number))) == min(number, len(names))


def test_each_family_has_one_model_and_a_model_without_one_runs() -> None:
    names = {"a1", "a2", "b1", "b2", "b3", "c", "d"}
    chosen = _sample(names, "family", lambda name: name[0] if len(name) == 2 else "")
    assert sorted(name[0] for name in chosen) == ["a", "b", "c", "d"]


def test_the_cheapest_model_of_a_family_is_taken() -> None:
    zoo = Zoo("timm", ("resnet18", "resnet152"), lambda name: ModelSpec(name, dict, family="resnet"))  # type: ignore[arg-type]
    sample = parse_sample("family", "")
    assert sample is not None
    assert sample_of_selection(((zoo, zoo.names),), sample)[0][1] == ("resnet18",)


@pytest.mark.parametrize("text", ["0", "0%", "-1", "families", "10 models", "1.5", "٣"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"--headswap-sample must be"):
        parse_sample(text, "--headswap-sample")


def test_header_journal_and_report_say_that_it_is_a_sample(project: pytest.Pytester, journal: Journal) -> None:
    run = ("--headswap-zoo=testzoo", "--headswap-checks=metadata", "--headswap-sample=2")
    result = project.runpytest_inprocess(*run)
    result.stdout.fnmatch_lines(["headswap: SAMPLE (2); testzoo (2 of 8 models); metadata; 7 classes"])
    assert len(journal()) == 2
    assert read_journal(project.path / "headswap-report")[0].options["sample"] == "2"
    assert "A sample" in (project.path / "headswap-report" / "index.html").read_text()
    assert "**A sample**: 2" in (project.path / "headswap-report" / "summary.md").read_text()
    shards = [set[str](), set[str]()]
    for number, models in enumerate(shards, start=1):
        project.runpytest_inprocess(*run, f"--headswap-shard={number}/2", "--headswap-report=shard")
        models |= {item.model for item in journal("shard").values()}
    assert shards[0].isdisjoint(shards[1])
    assert len(shards[0] | shards[1]) == 2
