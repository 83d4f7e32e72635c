"""Run `headswap list-zoos` and `headswap list-models`."""

from __future__ import annotations

import argparse
from typing import Any

from pytest_headswap.cli.console import fail


def add_zoo_commands(commands: Any) -> None:
    """Declare the commands that list zoos and models."""
    zoos = commands.add_parser("list-zoos", help="list the zoos with the number of their models")
    zoos.set_defaults(run=_list_zoos)
    models = commands.add_parser("list-models", help="list the models of a zoo")
    models.add_argument("zoo", metavar="ZOO", help="zoo, such as timm or file.py:ATTR")
    models.add_argument("globs", metavar="GLOB", nargs="?", default="", help="comma-separated globs; !glob excludes")
    models.set_defaults(run=_list_models)


def _list_zoos(_: argparse.Namespace) -> int:
    from pytest_headswap._text import pluralize, single_line
    from pytest_headswap.zoo import ZooError, load_zoo, zoo_names

    names = zoo_names()
    width = max(map(len, names))
    for name in names:
        try:
            text = pluralize(len(load_zoo(name)), "model")
        except ZooError as error:
            text = single_line(str(error))
        print(f"{name:<{width}}  {text}")
    return 0


def _list_models(arguments: argparse.Namespace) -> int:
    from pytest_headswap._text import escape_unprintable
    from pytest_headswap.zoo import ZooError, load_zoo, select_models

    try:
        names = select_models(load_zoo(arguments.zoo), arguments.globs)
    except ZooError as error:
        return fail(2, str(error))
    for name in names:
        print(escape_unprintable(name))
    return 0
