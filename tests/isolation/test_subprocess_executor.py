"""A child process is replaced without harm to the pytest process, and a failed start is tried again."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_headswap.isolation import subprocess_executor
from pytest_headswap.isolation.child_process import StartMethod
from pytest_headswap.isolation.subprocess_executor import SubprocessExecutor


@pytest.fixture
def half_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a package whose import fails after a submodule is loaded. Return the file that makes it fail."""
    package = tmp_path / "halfway"
    package.mkdir()
    (package / "__init__.py").write_text("import halfway.part\nfrom halfway.part import VALUE\nimport halfway.last\n")
    (package / "part.py").write_text("VALUE = 1\n")
    (package / "last.py").write_text("raise MemoryError\n")
    monkeypatch.syspath_prepend(tmp_path)
    return package / "last.py"


def test_an_import_that_fails_halfway_leaves_no_module_behind(half_imported: Path) -> None:
    subprocess_executor._import_or_undo(["halfway.part"])
    assert not [name for name in sys.modules if name.startswith("halfway")]
    half_imported.write_text("MENDED = True\n")
    subprocess_executor._import_or_undo(["halfway.part"])
    import halfway  # type: ignore[import-not-found]

    assert halfway.part.VALUE == 1


@pytest.mark.parametrize("failures", [1, 2])
def test_models_leave_their_process_only_after_two_failed_starts(
    failures: int, recwarn: pytest.WarningsRecorder
) -> None:
    starts: list[StartMethod] = []

    class Replaced(SubprocessExecutor):
        def _start(self, method: StartMethod) -> str:
            starts.append(method)
            return "no memory" if len(starts) <= failures else ""

        def _build(self) -> Any:
            return "isolated"

    in_process = SimpleNamespace(build=lambda zoo, model: "in process")
    executor: Any = Replaced(in_process, ("fork", "spawn"), lambda: in_process)  # type: ignore[arg-type, return-value]
    zoo: Any = SimpleNamespace(name="zoo")
    assert executor.build(zoo, "model") == ("isolated" if failures == 1 else "in process")
    assert starts == ["fork", "spawn"]
    warned = ["no memory" in str(item.message) for item in recwarn]
    assert warned == [True] * (failures - 1)
