"""Run every code block of the README and the documentation, and compare its output with the page.

The blocks of a page run in order, in one folder:

- `python` runs in one namespace per page. With a title, it is written to that file instead.
- `bash` runs line by line.
- `toml` and `yaml` must parse. With a title, they are written to that file.
- `text` is the expected output of the block before it; `...` matches anything.

The pages in `docs/use` need more libraries: `tox run -e integrations` runs them.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import yaml

from .conftest import DOCS, PAGES, README, ROOT, Block, blocks_of

USE = DOCS / "use"

SMALL = "--headswap-zoo=builtin --headswap-models=conv_head,conv1d_head --headswap-checks=metadata"
SLURM = " ".join(f"SLURM_ARRAY_TASK_{name}" for name in ("ID=0", "MIN=0", "MAX=0", "STEP=1", "COUNT=1"))
REDUCED = {
    # command on a page: command to run instead, and why
    "pip install 'pytest-headswap[timm]'": ("true", "the release tests install it"),
    "pip install pytest-headswap": ("true", "the same"),
    "python3 -m venv .venv && . .venv/bin/activate": ("true", "the same"),
    "pytest -q -n 2": ("pytest -q", "the workers take longer to start than the tests"),
    "pip install 'pytest-headswap[ray]'": ("true", "the tests of clusters need it"),
    "pytest --headswap-zoo=timm --headswap-executor=ray:10.0.0.1:6379": (f"pytest -q {SMALL}", "needs a cluster"),
    "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[docs,timm]' "
    "&& pytest --headswap-zoo=builtin -n 2": (
        f"pytest -q {SMALL}",
        "the same",
    ),
    "pytest --headswap-zoo=timm --headswap-models='resnet18*,vit_tiny_*,!*_qkvb' -n 2": (
        "pytest -q --headswap-zoo=timm --headswap-models=resnet18 --headswap-checks=metadata",
        "the release tests run it",
    ),
    "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest -n 2": (
        "pytest --version",
        ".ci/run runs it unchanged",
    ),
    "pytest --headswap-zoo=timm -n 2": (f"pytest -q {SMALL}", "takes an hour"),
    "pytest --headswap-zoo=timm -n 2 --headswap-resume": (f"pytest -q {SMALL} --headswap-resume", "the same"),
    "pytest --headswap-zoo=timm -n 2 --headswap-shard=1/8 --headswap-report=shard-1": (
        f"pytest -q {SMALL} --headswap-shard=1/1 --headswap-report=shard-1",
        "needs eight machines",
    ),
    "sbatch --array=0-7 --job-name=zoo --wrap 'pytest --headswap-zoo=timm --headswap-shard=auto "
    "--headswap-report=s-$SLURM_ARRAY_TASK_ID'": (
        f"{SLURM} pytest -q {SMALL} --headswap-shard=auto --headswap-report=s-0",
        "needs Slurm",
    ),
    "sbatch --dependency=singleton --job-name=zoo --wrap 'headswap merge whole s-*'": (
        "headswap merge whole-array s-*",
        "the same",
    ),
    "sbatch --array=0-999%200 --wrap 'pytest --headswap-zoo=hub.py:ZOO --headswap-shard=auto "
    "--headswap-report=s-$SLURM_ARRAY_TASK_ID'": (
        f"{SLURM} pytest -q {SMALL} --headswap-shard=auto --headswap-report=s-0",
        "needs Slurm and a hub",
    ),
    "pytest --headswap-zoo=timm -n 2 --headswap-since=nightly/results.jsonl": (
        f"pytest -q {SMALL} --headswap-report=nightly\npytest -q {SMALL} --headswap-since=nightly/results.jsonl",
        "takes an hour",
    ),
    "pytest --headswap-zoo=timm -n 2 --headswap-sample=family --headswap-since=nightly": (
        f"pytest -q {SMALL} --headswap-sample=family --headswap-since=nightly",
        "the same",
    ),
    "pytest --headswap-zoo=timm -d --tx 4*ssh=user@host//chdir=/lib//python=/lib/venv/bin/python --tx 2*popen": (
        f"pytest -q {SMALL} -d --tx 2*popen",
        "needs another machine",
    ),
    "headswap merge versions run-2.4 run-2.9 --by-version-of=torch": (
        """for v in 2.4 2.9; do
            cp -r last-week run-$v
            sed -i -E '1s/("torch": ")[^"]*/\\1'$v/ run-$v/results.jsonl
        done
        headswap merge versions run-2.4 run-2.9 --by-version-of=torch""",
        "only one torch is installed",
    ),
}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=str(page.relative_to(ROOT)), marks=[pytest.mark.integrations] * (page.parent == USE))
        for page in PAGES
    ],
)
def test_code_blocks_print_the_documented_output(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    printed: str | None = None
    with _modules_of(tmp_path):
        for block in blocks_of(page):
            where = f"{page.name}, line {block.line}"
            if block.language == "text":
                assert printed is not None, f"{where}: nothing ran right before this output"
                _compare(block.text, printed, where)
                printed = None
            else:
                known = block.language in RUN
                assert known, f"{where}: cannot run {block.language or 'an indented block'!r}"
                printed = RUN[block.language](block, names, where)


@contextlib.contextmanager
def _modules_of(folder: Path) -> Iterator[None]:
    """Remove the modules that a page imports from its folder."""
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and Path(file).is_relative_to(folder):
                del sys.modules[name]


def _python(block: Block, names: dict[str, Any], where: str) -> str | None:
    code = compile(block.text, block.title or where, "exec")
    if block.title:
        _write(block)
        return None
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, names)
    return out.getvalue()


def _bash(block: Block, _: dict[str, Any], where: str) -> str:
    lines = [REDUCED[line][0] if line in REDUCED else line for line in block.text.splitlines()]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    environment = {**kept, "PATH": path, "COLUMNS": "120", "NO_COLOR": "1"}
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{where}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _toml(block: Block, _: dict[str, Any], where: str) -> None:
    assert tomlkit.parse(block.text), where
    _write(block)


def _yaml(block: Block, _: dict[str, Any], where: str) -> None:
    assert yaml.safe_load(block.text), where
    _write(block)


def _write(block: Block) -> None:
    if block.title:
        Path(block.title).parent.mkdir(parents=True, exist_ok=True)
        Path(block.title).write_text(block.text, encoding="utf-8")


RUN: dict[str, Callable[[Block, dict[str, Any], str], str | None]] = {
    "python": _python,
    "bash": _bash,
    "toml": _toml,
    "yaml": _yaml,
}


def _compare(said: str, printed: str, where: str) -> None:
    said, printed = _plain(said), _plain(printed)
    matches = doctest.OutputChecker().check_output(said, printed, doctest.ELLIPSIS)
    assert matches, f"{where}: the page says\n{said}\nand what ran printed\n{printed}"


def _plain(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.strip().splitlines())


def test_every_reduced_command_is_documented() -> None:
    lines = {line for page in PAGES for block in blocks_of(page) for line in block.text.splitlines()}
    assert REDUCED.keys() <= lines


@pytest.mark.parametrize(
    "text",
    [
        "```python\nraise ValueError\n```",
        "```python\nprint(1)\n```\n\n```text\n2\n```",
        "```bash\nfalse\ntrue\n```",
        "```bash\necho 1\n```\n\n```text\n1\n2\n```",
        "```toml\na = \n```",
        "```yaml\na: [\n```",
        "```ruby\nputs 1\n```",
        "words\n\n    indented\n",
        "```text\noutput of nothing\n```",
        '```python title="wrong.py"\ndef (\n```',
    ],
)
def test_wrong_code_blocks_fail(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(Exception):  # noqa: B017, PT011 - each block fails differently
        test_code_blocks_print_the_documented_output(page, tmp_path, monkeypatch)


def test_readme_is_tested() -> None:
    assert README in PAGES
    assert len(PAGES) > 10
