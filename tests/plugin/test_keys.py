"""The key of a result changes with each thing that the result rests on, and with nothing else."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_headswap.plugin.recording import keys as keys_module
from pytest_headswap.plugin.recording.keys import Keys
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.results.ids import CheckId
from pytest_headswap.zoo import source_code, source_walk

Extend = Callable[[str], None]
Change = Callable[[pytest.Pytester, pytest.MonkeyPatch], object]

OUTPUT_SHAPE = CheckId("testzoo", "alpha", "output_shape")
RUN = ("--headswap-zoo=testzoo", "--headswap-models=alpha,beta*", "--collect-only", "-p", "local_plugin")

EXTRA = """
SETTING = os.environ.get("HEADSWAP_TEST_SETTING")
TABLE = "table.json"
import helper

def own(case):
    pass

def pytest_headswap_checks(config):
    return {"own": own}
"""


@pytest.fixture
def keyed(project: pytest.Pytester, extend_conftest: Extend, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Create a project with everything that a key may depend on."""
    monkeypatch.syspath_prepend(project.path)
    (project.path / "local_plugin.py").write_text("")
    (project.path / "helper.py").write_text("")
    (project.path / "table.json").write_text("{}")
    extend_conftest(EXTRA)
    return project


def _keys(project: pytest.Pytester, *flags: str) -> Keys:
    config = project.parseconfigure(*RUN, *flags)
    recorder: Any = config.pluginmanager.get_plugin("headswap-recorder")
    keys: Keys = recorder.keys
    config._ensure_unconfigure()
    return keys


def _append(name: str, text: str = "\n# changed\n") -> Change:
    def change(project: pytest.Pytester, _: pytest.MonkeyPatch) -> None:
        with Path(project.path, name).open("a") as file:
            file.write(text)

    return change


def _version_of(package: str) -> Change:
    def change(_: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        real = source_code.installed_version
        for module in (source_code, source_walk):
            monkeypatch.setattr(module, "installed_version", lambda name: "99" if name == package else real(name))

    return change


CHANGES: dict[str, Change] = {
    "the zoo's file": _append("conftest.py"),
    "a module that it imports": _append("helper.py"),
    "a file that it names": _append("table.json"),
    "a plugin of the project": _append("local_plugin.py"),
    "an environment variable that it reads": lambda _, patch: patch.setenv("HEADSWAP_TEST_SETTING", "1"),
    "torch": _version_of("torch"),
    "pytest": _version_of("pytest"),
    "Python": lambda _, patch: patch.setattr(platform, "python_version", lambda: "3.99.0"),
    "the machine type": lambda _, patch: patch.setattr(platform, "machine", lambda: "other"),
    "the devices": lambda _, patch: patch.setattr(Settings, "devices", ["cuda:0 (a GPU)"]),
    "this package": lambda _, patch: patch.setattr(keys_module, "_NO_PART", ("cli",)),
    "warnings of the ini file": lambda project, _: project.makeini("[pytest]\nfilterwarnings = error::ResourceWarning"),
}
FLAGS = (
    *(
        "--headswap-num-classes=3",
        "--headswap-evidence=abstract",
        "--headswap-evidence=numeric",
        "--headswap-device=cpu",
    ),
    *("--headswap-timeout=299", "--headswap-memory-limit=1GiB", "-Werror"),
)
SAME = (
    *(
        "--headswap-models=alpha",
        "--headswap-checks=output_shape",
        "--headswap-report=elsewhere",
        "--headswap-shard=1/1",
    ),
    *("--headswap-run-skipped", "--headswap-sample=100%", "-x", "--headswap-zoo=testzoo,builtin"),
)


def test_each_change_changes_the_key(keyed: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {_keys(keyed).key(OUTPUT_SHAPE)}
    assert _keys(keyed).key(OUTPUT_SHAPE) in seen
    for name, change in CHANGES.items():
        change(keyed, monkeypatch)
        key = _keys(keyed).key(OUTPUT_SHAPE)
        assert key not in seen, name
        seen.add(key)


def test_options_change_the_key_if_results_rest_on_them(keyed: pytest.Pytester) -> None:
    before = _keys(keyed).key(OUTPUT_SHAPE)
    found = {_keys(keyed, flag).key(OUTPUT_SHAPE) for flag in FLAGS}
    assert len(found) == len(FLAGS)
    assert before not in found
    for flag in SAME:
        assert _keys(keyed, flag).key(OUTPUT_SHAPE) == before, flag


def test_models_and_checks_have_keys_of_their_own(keyed: pytest.Pytester) -> None:
    keys = _keys(keyed)
    tests = [CheckId("testzoo", model, check) for model in ("alpha", "beta.v1_5") for check in ("output_shape", "own")]
    assert len({keys.key(test) for test in tests}) == 4
    assert not any(keys.unknown(test) for test in tests)


def test_files_that_nothing_names_do_not_change_the_key(keyed: pytest.Pytester) -> None:
    before = _keys(keyed).key(OUTPUT_SHAPE)
    for name in ("other.py", "notes.txt", "test_more.py"):
        (keyed.path / name).write_text("")
    assert _keys(keyed).key(OUTPUT_SHAPE) == before


def test_a_file_that_changes_during_the_run_leaves_no_key(
    keyed: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = _keys(keyed)
    keys.read_all()
    whole = keys.key_of_result(OUTPUT_SHAPE, flaky=False)
    assert whole == keys.key(OUTPUT_SHAPE)
    assert keys.key_of_result(OUTPUT_SHAPE, flaky=True) == f"?{whole}"
    _append("helper.py")(keyed, monkeypatch)
    monkeypatch.setattr(keys, "_looked", -10.0)
    assert keys.key_of_result(OUTPUT_SHAPE, flaky=False) == "?"


def test_an_entry_that_holds_a_tensor_is_unknown(keyed: pytest.Pytester, extend_conftest: Extend) -> None:
    extend_conftest("WEIGHT = torch.ones(2)\nSPECS['alpha']['build'] = lambda weight=WEIGHT: Net()")
    keys = _keys(keyed)
    assert keys.key(OUTPUT_SHAPE).startswith("?")
    assert "holds a Tensor" in keys.unknown(OUTPUT_SHAPE)


def test_an_entry_that_raises_is_unknown_and_does_not_end_the_run(
    keyed: pytest.Pytester, extend_conftest: Extend
) -> None:
    extend_conftest(
        "make = load().spec\n"
        "def broken():\n"
        "    return Zoo('testzoo', tuple(SPECS), lambda name: 1 / 0 if name == 'alpha' else make(name))\n"
        "register('testzoo', broken)"
    )
    keys = _keys(keyed)
    assert keys.key(OUTPUT_SHAPE).startswith("?")
    assert keys.unknown(OUTPUT_SHAPE) == "the zoo's entry of alpha raised ZeroDivisionError"
