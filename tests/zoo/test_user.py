"""A user's zoo is a line of Python, and what is wrong with it is said in words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pytest_headswap.zoo import ModelSpec, Zoo, ZooError, load_zoo, zoo_names
from pytest_headswap.zoo.registry import _LOADED
from pytest_headswap.zoo.user import as_zoo

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
"""


@pytest.fixture(autouse=True)
def zoo_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with `zoo_of_user.py` in it, as the present folder."""
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
def test_a_module_or_a_file_can_hold_each_kind_of_zoo(where: str, attribute: str, names: tuple[str, ...]) -> None:
    zoo = load_zoo(f"{where}:{attribute}")
    assert (zoo.name, zoo.names) == (f"{where}:{attribute}", names)
    assert isinstance(zoo[names[0]].build(), nn.Module)


def test_native_is_known_where_the_factory_takes_num_classes() -> None:
    zoo = load_zoo("zoo_of_user:ZOO")
    native = zoo["tiny"].native
    assert native is not None
    assert native(3).fc.out_features == 3  # type: ignore[union-attr]
    assert zoo["fixed"].native is None


def test_a_module_in_a_package_is_found(tmp_path: Path) -> None:
    package = tmp_path / "mypkg" / "sub"
    package.mkdir(parents=True)
    (package / "models.py").write_text(MODELS)
    assert load_zoo("mypkg.sub.models:ZOO").names == ("fixed", "tiny")


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("zoo_of_user:ZOOO", "unknown attribute 'ZOOO' in zoo_of_user: did you mean ZOO?"),
        ("zoo_of_user:", "write package.module:ATTR or file.py:ATTR"),
        (":ZOO", "write package.module:ATTR or file.py:ATTR"),
        ("missing.py:ZOO", "there is no file 'missing.py'"),
        ("no_such_module:ZOO", "importing no_such_module raised ModuleNotFoundError: No module named 'no_such_module'"),
        ("zoo_of_user:breaks", "raised RuntimeError: not today .*zoo_of_user.py, line 18"),
        ("zoo_of_user:TEXT", "is str 'tiny': it has to be a mapping of names"),
        ("zoo_of_user:EMPTY", "holds no models"),
        ("zoo_of_user:NUMBER", "has int 3 as 'three': it has to be a factory"),
        ("zoo_of_user:WRONG", "has ModelSpec 'b' under the name 'a'"),
        ("tiim", "unknown zoo 'tiim' in the installed zoos: did you mean timm"),
        ("something", "A zoo of your own is package.module:ATTR"),
    ],
)
def test_what_is_no_zoo_is_refused_in_words(reference: str, text: str) -> None:
    with pytest.raises(ZooError, match=text):
        load_zoo(reference)


def test_a_file_that_raises_says_where(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\nimport nothing_there\n")
    with pytest.raises(ZooError, match=r"importing broken.py raised ModuleNotFoundError.*broken.py, line 2"):
        load_zoo("broken.py:ZOO")


@pytest.mark.parametrize("key", [3, "", None, ("a",)])
def test_names_have_to_be_text(key: Any) -> None:
    with pytest.raises(ZooError, match="names have to be text"):
        as_zoo("mine", {key: nn.Identity})


def test_names_have_to_be_unique() -> None:
    with pytest.raises(ZooError, match="two models called 'a'"):
        as_zoo("mine", [ModelSpec("a", build=nn.Identity), ModelSpec("a", build=nn.Identity)])


def test_a_list_of_something_else_is_refused() -> None:
    with pytest.raises(ZooError, match="lists int 3"):
        as_zoo("mine", [3])


def test_a_factory_that_returns_no_module_is_named_when_it_is_built() -> None:
    zoo = as_zoo("mine", {"odd": lambda: "a string"})
    with pytest.raises(ZooError, match="the factory of 'odd' in zoo 'mine' returned str 'a string'"):
        zoo["odd"].build()


def test_an_installed_distribution_can_offer_a_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_unknown_model_of_a_users_zoo_has_close_matches() -> None:
    with pytest.raises(ZooError, match="did you mean tiny"):
        load_zoo("zoo_of_user:ZOO")["tinny"]


def test_versions_of_a_zoo_object_are_kept() -> None:
    assert as_zoo(
        "mine", Zoo("inner", ("x",), lambda name: ModelSpec(name, build=nn.Identity), {"lib": "1"})
    ).versions == {"lib": "1"}
