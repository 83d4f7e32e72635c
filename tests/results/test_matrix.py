"""The rows of the matrix contain every result and the worst outcome."""

from __future__ import annotations

from dataclasses import replace

from pytest_headswap.results import JournalHeader
from pytest_headswap.results.matrix import Matrix, build_matrix
from tests.journals import ANATOMY, result

HEADER = JournalHeader({}, {"checks": ["output_shape", "metadata"]})


def _matrix(*results: object) -> Matrix:
    return build_matrix(HEADER, results)  # type: ignore[arg-type]


def test_the_matrix_has_a_row_per_architecture_and_a_column_per_check_in_running_order() -> None:
    matrix = _matrix(result("b", "metadata"), result("a", "mine"), result("b"), result("b", zoo="mine"))
    assert [(row.zoo, row.model) for row in matrix.rows] == [("mine", "b"), ("timm", "a"), ("timm", "b")]
    assert matrix.columns == ("output_shape", "metadata", "mine")
    assert [len(cell) for cell in matrix.cells(matrix.rows[2])] == [1, 1, 0]
    assert [item.check for item in matrix.rows[2].results] == ["output_shape", "metadata"]


def test_a_row_sums_the_costs_of_its_results() -> None:
    (row,) = _matrix(
        result("a", seconds=1.5, anatomy=ANATOMY, family=""),
        result("a", "metadata", "error", seconds=2.0, peak_memory_mb=2000.0),
        result("a", "mine", "failed", peak_memory_mb=None),
    ).rows
    assert (row.seconds, row.peak_memory_mb, row.family, row.anatomy) == (3.75, 2000.0, "resnet", ANATOMY)
    assert row.worst.outcome == "failed"
    assert [item.outcome for item in row.failures] == ["failed", "error"]


def test_only_rows_that_need_attention_are_listed_worst_first() -> None:
    matrix = _matrix(
        result("fine"),
        result("skipped", outcome="skipped"),
        result("one", outcome="failed"),
        result("two", outcome="failed"),
        result("two", "metadata", "error"),
        result("dead", outcome="crashed"),
    )
    assert [row.model for row in matrix.worst_first] == ["dead", "two", "one"]


def test_a_repeated_result_is_kept_and_the_worse_one_is_shown() -> None:
    matrix = _matrix(result("a"), result("a", outcome="failed"))
    (row,) = matrix.rows
    (cell,) = matrix.cells(row)
    assert [item.outcome for item in cell] == ["failed", "passed"]
    assert len(row.results) == 2


def test_with_several_versions_the_columns_are_the_versions() -> None:
    header = replace(HEADER, merged={"versions": [{"version": "torch 2.9"}, {"version": "torch 2.10"}]})
    results = [
        result("same", version="torch 2.10"),
        result("same", version="torch 2.9"),
        result("other", version="torch 2.9"),
        result("other", version="torch 2.10", outcome="failed"),
        result("new", version="torch 2.10"),
    ]
    matrix = build_matrix(header, results)
    assert matrix.columns == ("torch 2.9", "torch 2.10")
    assert {row.model: row.checks_that_differ for row in matrix.rows} == {
        "new": {"output_shape"},
        "other": {"output_shape"},
        "same": frozenset(),
    }
    assert [[item.outcome for item in cell] for cell in matrix.cells(matrix.rows[1])] == [["passed"], ["failed"]]


def test_the_journal_of_one_run_has_no_differences() -> None:
    (row,) = _matrix(result("a"), result("a", "metadata", "failed")).rows
    assert row.checks_that_differ == frozenset()
