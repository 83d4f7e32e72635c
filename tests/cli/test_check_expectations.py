"""`headswap expectations --check` validates files without building a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from pytest_headswap import ModelSpec, Zoo
from pytest_headswap.cli.main import main
from pytest_headswap.zoo import registry

Output = pytest.CaptureFixture[str]

FAILS = '[[expect]]\nmodels = "alpha"\nchecks = "metadata"\noutcome = "failed"\nreason = "known"\n'


def _unbuildable() -> nn.Module:
    raise AssertionError("no model is built")


@pytest.fixture(autouse=True)
def _zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(registry, "_LOADED", {})
    monkeypatch.chdir(tmp_path)
    names = ("alpha", "beta")
    registry.register("testzoo", lambda: Zoo("testzoo", names, lambda name: ModelSpec(name, _unbuildable)))


def test_a_valid_file_or_folder_is_counted(capsys: Output) -> None:
    Path("known").mkdir()
    for path in (Path("testzoo.toml"), Path("known", "testzoo.toml")):
        path.write_text(FAILS, encoding="utf-8")
    assert main(["expectations", "--check", "testzoo.toml", "known"]) == 0
    assert capsys.readouterr().out == "testzoo.toml: 1 entry, valid\nknown/testzoo.toml: 1 entry, valid\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[expect", "testzoo.toml: invalid TOML"),
        (FAILS.replace("reason", "reasn"), "testzoo.toml, line 1: unknown key 'reasn': did you mean reason?"),
        (FAILS.replace("alpha", "alpa"), "testzoo.toml, line 1: no model of zoo 'testzoo' matches alpa"),
        (FAILS + FAILS.replace("failed", "skipped"), "testzoo::alpha::metadata is covered twice"),
        (
            FAILS + 'when = { torchh = "<2" }\n',
            "when.torchh names a library that is not installed: did you mean torch?",
        ),
        (FAILS + "until = 3\n", "until must be"),
    ],
)
def test_an_invalid_file_is_an_error(capsys: Output, text: str, message: str) -> None:
    Path("testzoo.toml").write_text(text, encoding="utf-8")
    Path("good").mkdir()
    Path("good", "testzoo.toml").write_text(FAILS, encoding="utf-8")
    assert main(["expectations", "--check", "testzoo.toml", "good"]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "good/testzoo.toml: 1 entry, valid" in captured.out


def test_a_file_that_is_not_named_after_a_zoo_must_name_it(capsys: Output) -> None:
    Path("known.toml").write_text(FAILS, encoding="utf-8")
    assert main(["expectations", "--check", "known.toml"]) == 1
    assert "zoo is missing, and the file is not named after a zoo" in capsys.readouterr().err
    Path("known.toml").write_text(f'{FAILS}zoo = "testzoo"\n', encoding="utf-8")
    assert main(["expectations", "--check", "known.toml"]) == 0
    assert main(["expectations", "--check", "nowhere.toml"]) == 1


def test_notes_name_what_needs_attention_later(capsys: Output) -> None:
    text = FAILS.replace("known", "TODO") + "until = 2000-01-01\n" + FAILS.replace("metadata", "mine")
    Path("testzoo.toml").write_text(text + f'{FAILS}zoo = "nowhere.py:ZOO"\n', encoding="utf-8")
    assert main(["expectations", "--check", "testzoo.toml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "testzoo.toml, line 1: ended after 2000-01-01",
        "testzoo.toml, line 1: the reason is still to be written",
    ]
    assert "testzoo.toml, line 7: no built-in check matches mine" in lines
    assert any(line.startswith("testzoo.toml: the models of zoo 'nowhere.py:ZOO' are not checked: ") for line in lines)
    assert lines[-1] == "testzoo.toml: 3 entries, valid"


def test_the_flag_is_required(capsys: Output) -> None:
    with pytest.raises(SystemExit):
        main(["expectations", "testzoo.toml"])
    assert "--check" in capsys.readouterr().err
