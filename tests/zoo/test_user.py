"""Test the zoos of users: every accepted form, and the errors for invalid ones."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pytest_headswap.zoo import ModelSpec, Zoo, ZooError, load_zoo, zoo_names
from pytest_headswap.zoo.custom import make_zoo
from pytest_headswap.zoo.registry import _LOADED

MODELS = """
from torch import nn
from pytest_headswap.zoo import ModelSpec, Zoo

class Tiny(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.fc = nn.Linear(8, num_classes)
    def forward(self, x):
        return self.fc(x)

ZOO = {"tiny": Tiny, "fixed": lambda: Tiny(4)}
SPECS = [ModelSpec("a", build=Tiny), ModelSpec("b", build=Tiny)]
OBJECT = Zoo("inner", ("x",), lambda name: ModelSpec(name, build=Tiny), {"lib": "1"})
def made():
    return ZOO
def breaks():
    raise RuntimeError("not today")
TEXT = "tiny"
EMPTY = {}
NUMBER = {"three": 3}
WRONG = {"a": ModelSpec("b", build=Tiny)}
BUILT = {"one": Tiny()}
NO_BUILD = [ModelSpec("a", build=3)]
def needs_argument(something):
    return ZOO
def mixed():
    return Zoo("inner", ("x", 1), OBJECT.spec)
def stops():
    raise SystemExit("wrong arguments")
class NoDefault(Tiny):
    def __init__(self, num_classes):
        super().__init__(num_classes)
NO_DEFAULT = {"net": NoDefault}
"""


@pytest.fixture(autouse=True)
def zoo_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a folder that contains `zoo_of_user.py`, and return its path."""
    loaded, modules = dict(_LOADED), set(sys.modules)
    path = tmp_path / "zoo_of_user.py"
    path.write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield path
    _LOADED.clear()
    _LOADED.update(loaded)
    for name in set(sys.modules) - modules:
        if "zoo_of_user" in name or name.startswith("mypkg"):
            del sys.modules[name]


@pytest.mark.parametrize("where", ["zoo_of_user", "zoo_of_user.py"])
@pytest.mark.parametrize(
    ("attribute", "names"),
    [("ZOO", ("fixed", "tiny")), ("made", ("fixed", "tiny")), ("SPECS", ("a", "b")), ("OBJECT", ("x",))],
)
def test_modules_and_files_provide_every_form_of_zoo(where: str, attribute: str, names: tuple[str, ...]) -> None:
    zoo = load_zoo(f"{where}:{attribute}")
    assert (zoo.name, zoo.names) == (f"{where}:{attribute}", names)
    assert isinstance(zoo[names[0]].build(), nn.Module)


def test_factory_with_num_classes_builds_the_native_model() -> None:
    zoo = load_zoo("zoo_of_user:ZOO")
    native = zoo["tiny"].build_native
    assert native is not None
    assert native(3).fc.out_features == 3  # type: ignore[union-attr]
    assert zoo["fixed"].build_native is None


def test_factory_without_default_class_count_is_built_with_ten_classes() -> None:
    spec = load_zoo("zoo_of_user:NO_DEFAULT")["net"]
    assert spec.build().fc.out_features == 10  # type: ignore[union-attr]
    assert spec.build_native is not None
    assert spec.build_native(3).fc.out_features == 3  # type: ignore[union-attr]


def test_files_with_the_same_name_are_separate_zoos_with_picklable_models(tmp_path: Path) -> None:
    for folder, name in (("one", "tiny"), ("two", "other")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "zoo_of_user.py").write_text(MODELS.replace('"tiny": Tiny', f'"{name}": Tiny'))
    zoos = [load_zoo("one/zoo_of_user.py:ZOO"), load_zoo("two/zoo_of_user.py:ZOO")]
    assert [zoo.names for zoo in zoos] == [("fixed", "tiny"), ("fixed", "other")]
    for zoo in zoos:
        model = zoo["fixed"].build()
        assert type(pickle.loads(pickle.dumps(model))) is type(model)


def test_zoos_of_one_file_share_its_classes() -> None:
    one, two = load_zoo("zoo_of_user.py:ZOO"), load_zoo("zoo_of_user.py:SPECS")
    assert type(one["tiny"].build()) is type(two["a"].build())


def test_file_that_failed_to_import_is_imported_again(tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text("raise RuntimeError('not yet')")
    with pytest.raises(ZooError, match="not yet"):
        load_zoo("later.py:ZOO")
    (tmp_path / "later.py").write_text(MODELS)
    importlib.invalidate_caches()
    assert load_zoo("later.py:ZOO").names == ("fixed", "tiny")


def test_module_in_a_package_is_found(tmp_path: Path) -> None:
    package = tmp_path / "mypkg" / "sub"
    package.mkdir(parents=True)
    (package / "models.py").write_text(MODELS)
    assert load_zoo("mypkg.sub.models:ZOO").names == ("fixed", "tiny")


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("zoo_of_user:ZOOO", "unknown attribute 'ZOOO' in zoo_of_user: did you mean ZOO?"),
        ("zoo_of_user:", "use package.module:ATTR or file.py:ATTR"),
        (":ZOO", "use package.module:ATTR or file.py:ATTR"),
        ("completeness.py:ZOO", "there is no file 'completeness.py'"),
        ("no_such_module:ZOO", "importing no_such_module raised ModuleNotFoundError: No module named 'no_such_module'"),
        ("zoo_of_user:breaks", "raised RuntimeError: not today .*zoo_of_user.py, line 18"),
        ("zoo_of_user:stops", "raised SystemExit: wrong arguments .*zoo_of_user.py"),
        ("zoo_of_user:needs_argument", "calling 'zoo_of_user:needs_argument' raised TypeError: .*missing 1 required"),
        ("zoo_of_user:mixed", "zoo 'inner' has a model named 1: names must be non-empty text .*zoo_of_user.py, line"),
        ("zoo_of_user:BUILT", "has Tiny Tiny.* as 'one': it must be a factory"),
        ("zoo_of_user:NO_BUILD", "ModelSpec 'a' of zoo 'zoo_of_user:NO_BUILD' has int 3 as build: pass a function"),
        ("zoo_of_user::ZOO", "use package.module:ATTR or file.py:ATTR"),
        ("zoo_of_user.py::ZOO", "use package.module:ATTR or file.py:ATTR"),
        ("zoo_of_user:TEXT", "is str 'tiny': it must be a mapping of names"),
        ("zoo_of_user:EMPTY", "has no models"),
        ("zoo_of_user:NUMBER", "has int 3 as 'three': it must be a factory"),
        ("zoo_of_user:WRONG", "has ModelSpec 'b' under the name 'a'"),
        ("tiim", "unknown zoo 'tiim': did you mean timm"),
        ("something", "for your own zoo, use package.module:ATTR"),
    ],
)
def test_invalid_reference_is_an_error_with_the_reason(reference: str, text: str) -> None:
    with pytest.raises(ZooError, match=text):
        load_zoo(reference)


def test_error_names_the_line_that_raised(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\nimport nothing_there\n")
    with pytest.raises(ZooError, match=r"importing broken.py raised ModuleNotFoundError.*broken.py, line 2"):
        load_zoo("broken.py:ZOO")


def test_error_names_the_line_of_a_syntax_error(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\nZOO = {\n")
    with pytest.raises(ZooError, match=r"importing broken.py raised SyntaxError: .*broken.py, line 2"):
        load_zoo("broken.py:ZOO")


@pytest.mark.parametrize("key", [3, "", None, ("a",)])
def test_names_must_be_text(key: Any) -> None:
    with pytest.raises(ZooError, match="names must be non-empty text"):
        make_zoo("mine", {key: nn.Identity, "b": nn.Identity})
    with pytest.raises(ZooError, match="names must be non-empty text"):
        make_zoo("mine", [ModelSpec("b", build=nn.Identity), ModelSpec(key, build=nn.Identity)])


def test_names_must_be_unique() -> None:
    with pytest.raises(ZooError, match="two models named 'a'"):
        make_zoo("mine", [ModelSpec("a", build=nn.Identity), ModelSpec("a", build=nn.Identity)])
    with pytest.raises(ZooError, match="two models named 'a'"):
        Zoo("mine", ("a", "b", "a"), lambda name: ModelSpec(name, build=nn.Identity))


def test_list_of_other_values_is_an_error() -> None:
    with pytest.raises(ZooError, match="lists int 3"):
        make_zoo("mine", [3])


@pytest.mark.parametrize(
    "value",
    [
        {"odd": lambda: "a string"},
        {"odd": lambda num_classes: "a string"},
        [ModelSpec("odd", build=lambda: "a string")],  # type: ignore[arg-type, return-value]
        Zoo("inner", ("odd",), lambda name: ModelSpec(name, build=lambda: "a string")),  # type: ignore[arg-type, return-value]
    ],
)
def test_factory_that_does_not_return_a_module_is_an_error(value: Any) -> None:
    spec = make_zoo("mine", value)["odd"]
    with pytest.raises(ZooError, match="the factory of 'odd' in zoo 'mine' returned str 'a string'"):
        spec.build()


def test_native_model_that_is_not_a_module_is_an_error() -> None:
    spec = make_zoo("mine", {"odd": lambda num_classes=None: num_classes or nn.Identity()})["odd"]
    assert spec.build_native is not None
    with pytest.raises(ZooError, match="the factory of 'odd' in zoo 'mine' returned int 7"):
        spec.build_native(7)


def test_spec_with_another_name_is_an_error() -> None:
    zoo = make_zoo("mine", Zoo("inner", ("a",), lambda _: ModelSpec("b", build=nn.Identity)))
    with pytest.raises(ZooError, match="ModelSpec 'b' under the name 'a'"):
        zoo["a"]


def test_installed_distribution_provides_a_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_zoo-1.0.dist-info").mkdir()
    (tmp_path / "their_zoo-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-zoo\nVersion: 1.0\n"
    )
    (tmp_path / "their_zoo-1.0.dist-info" / "entry_points.txt").write_text(
        "[headswap.zoos]\ntheirs = zoo_of_user:ZOO\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "theirs" in zoo_names()
    zoo = load_zoo("theirs")
    assert (zoo.name, zoo.names) == ("theirs", ("fixed", "tiny"))


def test_unknown_model_is_reported_with_suggestions() -> None:
    with pytest.raises(ZooError, match="did you mean tiny"):
        load_zoo("zoo_of_user:ZOO")["tinny"]


def test_versions_of_a_zoo_are_kept() -> None:
    assert make_zoo(
        "mine", Zoo("inner", ("x",), lambda name: ModelSpec(name, build=nn.Identity), {"lib": "1"})
    ).versions == {"lib": "1"}


def test_zoo_in_a_file_runs_from_the_command_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(models=MODELS + 'ZOO["odd"] = lambda: "a string"\n')
    run = pytester.runpytest_subprocess("--headswap-zoo=models.py:ZOO", "--headswap-checks=output_shape", "-v")
    run.stdout.fnmatch_lines_random(
        [
            "models.py:ZOO::tiny::output_shape PASSED*",
            "models.py:ZOO::fixed::output_shape PASSED*",
            "models.py:ZOO::odd::output_shape ERROR*",
            "ZooError: the factory of 'odd' in zoo 'models.py:ZOO' returned str 'a string'*",
        ]
    )
    run.assert_outcomes(passed=2, errors=1)


def test_unknown_attribute_ends_the_run_with_one_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(models=MODELS)
    run = pytester.runpytest_subprocess("--headswap-zoo=models.py:ZOOO")
    run.stderr.fnmatch_lines(["ERROR: --headswap-zoo: unknown attribute 'ZOOO' in models.py: did you mean ZOO?"])
    assert run.ret == pytest.ExitCode.USAGE_ERROR
