"""`python -m conformance.mutation` makes realistic mutants and tells the surviving ones from the killed ones."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from conformance.mutation import forks, table
from conformance.mutation.mutants import candidates, marked, replacements, sample


def mutants_of(code: str) -> set[tuple[str, str]]:
    """Return the mutants of the first node of some code that has any."""
    for node in ast.walk(ast.parse(code)):
        if found := {(kind, ast.unparse(new).split("\n")[0]) for kind, new in replacements(node)}:
            return found
    return set()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("if ready: go()", {("condition", "if not ready:")}),
        ("if not ready: go()", {("condition", "if ready:")}),
        ("while ready: go()", {("condition", "while not ready:")}),
        ("a if ready else b", {("condition", "a if not ready else b")}),
        ("a < b", {("comparison", "a <= b")}),
        ("a >= b", {("comparison", "a > b")}),
        ("a is b", {("comparison", "a is not b")}),
        ("a not in b", {("comparison", "a in b")}),
        ("a and b", {("and/or", "a or b"), ("operand", "a"), ("operand", "b")}),
        ("a or b", {("and/or", "a and b"), ("operand", "a"), ("operand", "b")}),
        ("a = not b", {("not", "b")}),
        ("a + b", {("arithmetic", "a - b")}),
        ("a * b", {("arithmetic", "a // b")}),
        ("a = 3", {("constant", "4")}),
        ("a = True", {("constant", "False")}),
        ("a = b[0]", {("first/last", "b[-1]")}),
        ("a = b[-1]", {("first/last", "b[0]")}),
        ("a = any(b)", {("any/all", "all(b)")}),
        ("a = max(b)", {("any/all", "min(b)")}),
        ("a = call(b, c)", {("arguments", "call(c, b)")}),
        ("call(b, c)", {("removed", "pass")}),
        ("a.b = c", {("removed", "pass")}),
        ("a[b] = c", {("removed", "pass")}),
        ("a += b", {("removed", "pass")}),
        ("del a", {("removed", "pass")}),
        ("raise ValueError", {("removed", "pass")}),
        ("def f(): return a", {("return", "return None")}),
        ("for a in b: break", {("continue/break", "continue")}),
        ("for a in b: continue", {("continue/break", "break")}),
    ],
)
def test_each_operator_makes_the_mutant_that_it_names(code: str, expected: set[tuple[str, str]]) -> None:
    assert mutants_of(code) == expected


def test_a_filter_of_a_comprehension_is_dropped() -> None:
    [new] = [
        new
        for node in ast.walk(ast.parse("[a for a in b if a > c]"))
        for kind, new in replacements(node)
        if kind == "filter"
    ]
    assert ast.unparse(new).strip() == "for a in b"


@pytest.mark.parametrize(
    "code",
    [
        '"""The 3 rules."""',
        "def f(a: Literal[3]) -> Literal[4]: ...",
        "if TYPE_CHECKING:\n    import a",
        "def __repr__(self): return 1 + 2",
        "assert a < b",
        'f"{a + 1}"',
        "text = 'a' + b",
        "isinstance(a, b)",
        "@cache(3)\ndef f(): ...",
        "return_none = None",
    ],
)
def test_texts_annotations_and_asserts_have_no_mutants(code: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(code)
    assert [mutant.change for mutant in candidates(tmp_path, "module.py") if mutant.kind != "removed"] == []


def test_the_message_of_a_raise_has_no_mutants(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("raise ValueError(1 + 2)")
    assert [mutant.kind for mutant in candidates(tmp_path, "module.py")] == ["removed"]


SHOP = """
    LIMIT = 10

    def price(count, each):
        total = count * each
        if count > LIMIT:
            total = total - 5
        return total

    def unused():
        return 3
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A package whose tests call `price`, and miss its condition at the limit."""
    root = tmp_path / "checkout"
    (root / "shop").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "shop" / "__init__.py").touch()
    (root / "shop" / "prices.py").write_text(textwrap.dedent(SHOP))
    (root / "tests" / "test_prices.py").write_text(
        textwrap.dedent("""
            import subprocess
            import sys

            from shop.prices import price

            def test_few():
                assert price(2, 3) == 6

            def test_many_in_another_process():
                code = "from shop.prices import price; print(price(20, 3))"
                assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "55"
        """)
    )
    return root


def run_campaign(root: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Run all mutants of the shop in a process of their own; return the results by change."""
    script = f"""
        from pathlib import Path
        from conformance.mutation.campaign import Campaign
        from conformance.mutation.mutants import sample
        root, folder = Path({str(root)!r}), Path({str(folder)!r})
        mutants = sample(root, ["shop"], 100)
        campaign = Campaign(root, folder, mutants, root.glob("tests/test_*.py"), 2)
        campaign.learn()
        campaign.run(mutants, folder / "mutants.jsonl", 15)
    """
    here = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(forks.HOOK), str(root), str(here)])}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=environment, cwd=root)
    return {line["change"]: line for line in forks.read(folder / "mutants.jsonl")}


def contents(root: Path) -> dict[str, bytes]:
    """Return the files of a folder, except bytecode."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_planted_mutants_are_told_apart_and_the_checkout_is_not_written_to(shop: Path, tmp_path: Path) -> None:
    before = contents(shop)
    results = run_campaign(shop, tmp_path / "results")
    assert contents(shop) == before
    assert {change: line["outcome"] for change, line in results.items()} == {
        "10 -> 11": "survived",
        "count > LIMIT -> count >= LIMIT": "survived",
        "count * each -> count // each": "killed",
        "total - 5 -> total + 5": "killed",
        "5 -> 6": "killed",
        "return total -> return None": "killed",
        "return 3 -> return None": "not covered",
        "3 -> 4": "not covered",
    }
    by = results["total - 5 -> total + 5"]["by"]
    assert by == "tests/test_prices.py::test_many_in_another_process", "a process that a test starts has the mutant"


def test_an_endless_mutant_is_ended_at_its_time_limit(tmp_path: Path) -> None:
    (tmp_path / "test_endless.py").write_text("def test_endless():\n    while True: pass\n")
    script = f"""
        import time
        from pathlib import Path
        from conformance.mutation import forks
        fork = forks.Fork(Path({str(tmp_path / "fork")!r}), []).start(Path({str(tmp_path)!r}), ["."], 3)
        while (status := fork.ended()) is None:
            time.sleep(0.1)
        assert status == forks.TIMED_OUT
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(forks.HOOK), str(Path(__file__).parents[1])])}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=environment, timeout=60)


def test_a_mutant_keeps_its_key_when_other_functions_change(shop: Path) -> None:
    before = {mutant.key: mutant.line for mutant in candidates(shop, "shop/prices.py")}
    code = shop / "shop" / "prices.py"
    code.write_text("def new(a):\n    return a\n\n" + code.read_text())
    after = {mutant.key: mutant.line for mutant in candidates(shop, "shop/prices.py")}
    assert before.keys() < after.keys()
    assert all(after[key] == line + 3 for key, line in before.items())


def test_the_sample_is_the_same_each_time_and_takes_every_module(shop: Path) -> None:
    (shop / "shop" / "other.py").write_text("def same(a, b):\n    return a == b\n")
    picked = sample(shop, ["shop"], 4)
    assert picked == sample(shop, ["shop"], 4)
    assert {mutant.file for mutant in picked} == {"shop/other.py", "shop/prices.py"}


def test_all_mutants_of_the_package_compile() -> None:
    root = Path(__file__).parents[1]
    mutants = candidates(root, "pytest_headswap/results/merge.py")
    assert len(mutants) > 50
    for mutant in mutants:
        mutant.code(root)
    marked(root, mutants[0].file, list(enumerate(mutants)), len(mutants))


def line(key: str, outcome: str) -> dict[str, Any]:
    return {"key": key, "file": "package/engine/a.py", "line": 3, "change": "a < b -> a <= b", "outcome": outcome}


def test_the_table_lists_survivors_and_their_reasons(tmp_path: Path) -> None:
    survivors = tmp_path / "survivors.toml"
    survivors.write_text('[[survivor]]\nkey = "k3"\nwhy = "equivalent"\nreason = "they never meet"\n')
    lines = [line("k1", "killed"), line("k2", "timed out"), line("k3", "survived"), line("k4", "survived")]
    assert table.write_table(lines, 4, tmp_path / "table.md", survivors) == 1
    text = (tmp_path / "table.md").read_text()
    assert "| engine | 4 | 1 | 1 | 1 | 1 | 66.7% |" in text
    assert "`package/engine/a.py:3` `a < b` becomes `a <= b`: they never meet" in text
    assert "Unfinished" not in text
    assert table.write_table(lines[:3], 3, tmp_path / "table.md", survivors) == 0


def test_the_table_says_how_many_mutants_have_not_run(tmp_path: Path) -> None:
    survivors = tmp_path / "survivors.toml"
    survivors.touch()
    assert table.write_table([line("k1", "killed")], 5, tmp_path / "table.md", survivors) == 1
    assert "**Unfinished: 4 of 5 mutants have not run.**" in (tmp_path / "table.md").read_text()


def test_an_explanation_needs_a_known_kind_and_a_reason(tmp_path: Path) -> None:
    survivors = tmp_path / "survivors.toml"
    survivors.write_text('[[survivor]]\nkey = "k3"\nwhy = "luck"\nreason = "it is"\n')
    with pytest.raises(ValueError, match="`why` of k3 has to be one of equivalent, cost, wording, accepted"):
        table.explained(survivors)


@pytest.mark.parametrize("options", [["--shard=3/2"], ["--shard=0/2"], ["--shard=x"], ["--workers=0"], ["--count=-1"]])
def test_an_option_that_means_nothing_is_a_usage_error(options: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "conformance.mutation", str(tmp_path / "new"), *options]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert run.returncode == 2
    assert options[0].partition("=")[0] in run.stderr
    assert not (tmp_path / "new").exists()
