"""Run the README from top to bottom, in a fresh clone with nothing installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from .conftest import ROOT, strangers_environment

STEP = "+++ "
INSTALL = "pip install 'pytest-headswap[timm]'"
FROM_CLONE = "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[timm]'"
"""Takes the place of the first command: an index may not have this version yet."""


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """Copy the working tree to a new folder, and delete it afterwards: its environment takes gigabytes."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout, so the files of the project are unknown")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    folder = tmp_path / "clone"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.release
def test_readme_commands_work_in_a_fresh_clone(clone: Path) -> None:
    script = pasted((ROOT / "README.md").read_text(encoding="utf-8"))
    assert script.count(FROM_CLONE) == 1
    env = strangers_environment()
    env["PATH"] = f"{Path(sys.base_prefix, 'bin')}{os.pathsep}{env['PATH']}"
    output = clone.parent / "output"
    with output.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=clone,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    message = output.read_text(encoding="utf-8")
    print(message)
    assert done.returncode == 0, f"the last of these failed:\n{message[message.rindex(STEP) :][-3000:]}"
    assert message.count(STEP) == script.count(f"echo '{STEP}")
    assert "Traceback" not in message
    assert "nanobind" not in message


def test_script_of_a_page_runs_its_blocks_in_order_without_the_test_command(tmp_path: Path) -> None:
    page = """
```bash
echo one > log
```
<!-- test-command -->
```bash
echo never >> log
```
```python title="mine.py"
print("it's $HOME")
```
Then run `headswap explain timm:levit_128`.
```python
import mine
```
```python
mine.__name__[0]
```
"""
    script = pasted(page)
    assert (
        script.index("echo one") < script.index("mine.py") < script.index("headswap explain") < script.index("import m")
    )
    runnable = script.replace("headswap explain", "echo")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # which may have no `python`
    environment = {**os.environ, "PATH": path}
    command = ["bash", "-euc", runnable]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text() == "one\n"
    assert "timm:levit_128\n" in done.stdout
    assert done.stdout.endswith("it's $HOME\n")
    assert done.stdout.count(STEP) == 5


def pasted(page: str) -> str:
    """Return a bash script that runs the blocks of a page in order, without the test command.

    Python blocks with a title are written to that file. Others run after those before them, as in one session.
    `headswap` commands in sentences run too.
    """
    parts: list[str] = []
    before = session = ""
    for token in MarkdownIt("commonmark").enable("table").parse(page):
        for_tests, before = "test-command" in before, token.content
        language, _, more = token.info.partition(" ")
        if token.type == "fence" and language == "bash" and not for_tests:
            parts.append(token.content.replace(INSTALL, FROM_CLONE))
        elif token.type == "fence" and language == "python":
            if more.startswith('title="'):
                parts.append(f"cat > {more[7:-1]} << 'END OF BLOCK'\n{token.content}END OF BLOCK\n")
            else:
                session += token.content
                parts.append(f"python - << 'END OF BLOCK'\n{session}END OF BLOCK\n")
        spans = [child.content for child in token.children or () if child.type == "code_inline"]
        parts += [f"{span}\n" for span in spans if span.startswith("headswap ")]
    return "".join(f"echo '{STEP}{number}'\n{part}" for number, part in enumerate(parts, 1))
