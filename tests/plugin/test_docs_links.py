"""Messages link the page that explains them, once and where it is read; the journal holds no links."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_headswap._links import page
from pytest_headswap.results import Result

Journal = Callable[..., dict[str, Result]]

ZOO = "--headswap-zoo=testzoo"


def _see_lines(project: pytest.Pytester, *arguments: str) -> list[str]:
    result = project.runpytest_inprocess(*arguments)
    return [line.strip() for line in [*result.outlines, *result.errlines] if page("").rstrip("/") in line]


@pytest.mark.parametrize(
    ("model", "check", "address"),
    [
        ("mismatched", "native_parity", page("checks", "native_parity")),
        ("raising", "output_shape", page("errors", "forward_failed")),
        ("wrong_inputs", "output_shape", page("errors", "forward_failed")),
    ],
)
def test_a_failure_links_its_page_once_and_the_journal_does_not(
    model: str, check: str, address: str, project: pytest.Pytester, journal: Journal
) -> None:
    assert _see_lines(project, ZOO, f"--headswap-models={model}", f"--headswap-checks={check}") == [f"See {address}"]
    (item,) = journal().values()
    assert item.outcome in ("failed", "error")
    assert "https://" not in item.message


def test_the_skips_of_a_run_link_one_page(project: pytest.Pytester, journal: Journal) -> None:
    expected = _see_lines(project, ZOO, "--headswap-models=doubled,lonely", "-rs")
    assert expected == [f"the codes are explained at {page('errors')}"]
    assert "https://" not in "".join(item.message for item in journal().values())


def test_an_exception_without_a_page_links_none(project: pytest.Pytester) -> None:
    assert _see_lines(project, ZOO, "--headswap-models=unbuildable", "--headswap-checks=metadata") == []


def test_a_custom_check_links_no_page(project: pytest.Pytester) -> None:
    project.makepyfile(
        added="""
        from pytest_headswap import CheckFailed
        def mine(case):
            raise CheckFailed("mine is not so")
        def pytest_headswap_checks(config):
            return {"mine": mine}
        """
    )
    assert _see_lines(project, "-p", "added", ZOO, "--headswap-models=alpha", "--headswap-checks=mine") == []


def test_a_crash_links_the_section_about_crashes(project: pytest.Pytester) -> None:
    path = project.path / "dying.py"
    path.write_text("import os\nZOO = {'dying': lambda: os._exit(17)}\n", encoding="utf-8")
    expected = _see_lines(project, "--headswap-zoo=dying.py:ZOO", "--headswap-checks=metadata")
    assert expected == [f"See {page('errors', 'crashed')}"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((ZOO, "--headswap-num-classes=many"), "options"),
        ((ZOO, "--headswap-models=alfa"), "options"),
        (("--headswap-zoo=nothing.py:ZOO",), "zoo"),
        ((ZOO, "--headswap-expectations=nowhere.toml"), "expectations"),
        ((ZOO, "--headswap-update-expectations"), "expectations"),
    ],
)
def test_an_invalid_option_links_the_page_about_that_option(
    arguments: tuple[str, ...], name: str, project: pytest.Pytester
) -> None:
    assert _see_lines(project, *arguments) == [f"See {page(name)}"]


def test_a_user_test_that_swaps_a_head_shows_the_page(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import torch
        from pytest_headswap import swap_head

        def test_mine():
            swap_head(torch.nn.Linear(8, 10), -1)
        """
    )
    assert _see_lines(project) == [f"E           See {page('errors', 'bad_num_classes')}"]
