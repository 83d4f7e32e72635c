"""Run `headswap explain`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from pytest_headswap.cli.console import fail
from pytest_headswap.head import Section, list_section

if TYPE_CHECKING:
    from torch import nn

    from pytest_headswap.engine import Heads, HeadSwapError
    from pytest_headswap.zoo import ModelSpec


def _explain(arguments: argparse.Namespace) -> int:
    from pytest_headswap.zoo import ZooError, load_zoo
    from pytest_headswap.zoo.registry import find_models

    try:
        zoo, models = find_models(arguments.model)
    except ZooError as error:
        return fail(2, str(error))
    codes = []
    for number, model in enumerate(models):
        if number:
            print()
        codes.append(_explain_model(f"{zoo}:{model}", load_zoo(zoo)[model]))
    return max(codes)


def _explain_model(title: str, spec: ModelSpec) -> int:
    from pytest_headswap.engine import HeadSwapError

    out = Console(soft_wrap=True, highlight=False)
    try:
        heads = _find(spec)
    except HeadSwapError as error:
        _print_rejected(Console(stderr=True, soft_wrap=True, highlight=False), error)
        return fail(1, f"{title}: {error}")
    except Exception as error:  # noqa: BLE001 - the code of a zoo's library may raise anything
        return fail(1, f"{title} cannot be built: {type(error).__name__}: {error}")
    out.print(Text(f"{title}: {heads.summary}", style="bold"))
    for section in heads.sections():
        _print_section(out, section)
    return 0


def _find(spec: ModelSpec) -> Heads:
    """Return the heads of a model with notes of the engine and the zoo. Use the meta device if possible."""
    from pytest_headswap.case.skip_init import on_meta_if_possible
    from pytest_headswap.engine import ZOO_REFUSED, NoHeadError, find_heads

    def find(model: nn.Module) -> tuple[nn.Module, Heads | NoHeadError]:
        inputs = spec.example_inputs(model) if spec.example_inputs is not None else None
        try:
            return model, find_heads(model, inputs)
        except NoHeadError as error:  # returned, since a build with real memory would not find a head either
            return model, error

    if spec.skip_reason:
        raise NoHeadError(ZOO_REFUSED, spec.skip_reason)
    model, heads = on_meta_if_possible(spec.build, find)
    if isinstance(heads, NoHeadError):
        raise heads
    zoo_notes = spec.metadata_notes(model, heads) if spec.metadata_notes is not None else ()
    return replace(heads, notes=(*heads.notes, *zoo_notes))


def _print_section(out: Console, section: Section) -> None:
    out.print()
    out.print(Text(section.title, style="bold green" if section.is_head else "bold"))
    for title, text in section.lines():
        out.print(Text.assemble((title, "dim"), text))


def _print_rejected(out: Console, error: HeadSwapError) -> None:
    if error.rejected:
        _print_section(out, list_section("Rejected", error.rejected))
