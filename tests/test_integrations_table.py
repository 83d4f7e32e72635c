"""`conformance.integrations` runs the pages in `docs/use`, and its table lists every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomlkit
from packaging.utils import canonicalize_name

from conformance import integrations
from conformance.integrations import ROOT, TABLE, USE, modules_of, packages_of, try_page, write_table
from pytest_headswap._packages import distributions_by_package
from tests.test_packaging import declared_names

PAGES = [page for page in sorted(USE.glob("*.md")) if modules_of(page)]
RUN = """
import pytest

@pytest.mark.parametrize("page", ["docs/use/good.md", "docs/use/bad.md"])
def test_code_blocks_print_the_documented_output(page):
    assert page != "docs/use/bad.md", "the page says True"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with a test that passes for one page and fails for another."""
    monkeypatch.setattr(integrations, "ROOT", tmp_path)
    (tmp_path / "tests" / "docs").mkdir(parents=True)
    marked = RUN.replace("@pytest.mark.parametrize", "@pytest.mark.integrations\n@pytest.mark.parametrize")
    (tmp_path / "tests" / "docs" / "test_code_blocks.py").write_text(marked, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = integrations\n", encoding="utf-8")
    (tmp_path / "docs" / "use").mkdir(parents=True)
    return tmp_path / "docs" / "use"


def written(page: Path, code: str) -> Path:
    page.write_text(f"# A tool\n\n```python\n{code}\n```\n", encoding="utf-8")
    return page


def test_a_page_that_prints_what_it_says_passes(project: Path) -> None:
    tried = try_page(written(project / "good.md", "import torch"))
    assert (tried.title, tried.page, tried.outcome) == ("A tool", "docs/use/good.md", "passed")
    assert [library.split()[0] for library in tried.libraries] == ["torch"]
    assert tried.seconds > 0


def test_a_page_that_prints_something_else_fails_with_the_error(project: Path) -> None:
    tried = try_page(written(project / "bad.md", "import torch"))
    assert tried.outcome == "failed"
    assert tried.detail == "AssertionError: the page says True"


def test_a_page_without_its_test_fails(project: Path) -> None:
    assert try_page(written(project / "unknown.md", "import torch")).outcome == "failed"


def test_a_page_whose_library_is_missing_is_not_run(project: Path) -> None:
    tried = try_page(written(project / "good.md", "import torch, no_such_library"))
    assert (tried.outcome, tried.detail) == ("not installed", "no_such_library")


def test_libraries_are_read_from_the_programs_of_a_page(project: Path) -> None:
    page = written(project / "good.md", "import os\nfrom timm.data import Mixup\n\ndef late():\n    import peft.utils")
    with page.open("a", encoding="utf-8") as file:
        file.write("\n```python\nfrom own import x\nimport pytest_headswap\n```\n")
        file.write('\n```python title="own.py"\nx = 1\n```\n')
    assert modules_of(page) == ["peft", "timm"]


def test_packages_that_a_page_says_to_install_are_listed(project: Path) -> None:
    page = written(project / "good.md", "import torch")
    text = page.read_text(encoding="utf-8").replace(
        "# A tool\n", "# A tool\n\n`pip install 'pytest-headswap[timm]' rich>=1`\n"
    )
    page.write_text(text, encoding="utf-8")
    assert packages_of(page) == ["rich", "timm", "torch"]


def test_the_table_has_rows_and_errors(project: Path, tmp_path: Path) -> None:
    pages = [written(project / f"{name}.md", "import torch") for name in ("good", "bad")]
    write_table([try_page(page) for page in pages], tmp_path / "TABLE.md")
    text = (tmp_path / "TABLE.md").read_text(encoding="utf-8")
    assert re.search(r"^\| A tool \| torch [\d.]+ \| \d+ \| passed \|$", text, re.MULTILINE)
    assert re.search(r"^\| A tool \| torch [\d.]+ \| \d+ \| failed \|$", text, re.MULTILINE)
    assert "- `docs/use/bad.md` (failed): " in text


def test_the_stored_table_lists_every_page_and_all_passed() -> None:
    text = TABLE.read_text(encoding="utf-8")
    titles = [page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for page in PAGES]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == titles
    assert {row[-1] for row in rows[2:]} == {"passed"}


def test_the_extra_declares_every_package_that_a_page_imports() -> None:
    project = tomlkit.parse((ROOT / "pyproject.toml").read_text(encoding="utf-8")).unwrap()["project"]
    declared = {*declared_names(project, ""), *declared_names(project, "integrations")}
    installed = distributions_by_package()
    imported = {canonicalize_name(installed.get(name, [name])[0]) for page in PAGES for name in modules_of(page)}
    assert {"timm", "torch"} < imported
    assert imported - declared == set()
