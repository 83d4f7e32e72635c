"""Run `headswap explain`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from pytest_headswap._text import pluralize
from pytest_headswap.cli.console import fail

if TYPE_CHECKING:
    from torch import nn

    from pytest_headswap.engine import Head, Heads, HeadSwapError
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
        heads, notes = _find(spec)
    except HeadSwapError as error:
        _print_rejected(Console(stderr=True, soft_wrap=True, highlight=False), error)
        return fail(1, f"{title}: {error}")
    except Exception as error:  # noqa: BLE001 - the code of a zoo's library may raise anything
        return fail(1, f"{title} cannot be built: {type(error).__name__}: {error}")
    evidence = _EVIDENCE.get(heads.tensor_kind, heads.tensor_kind)
    out.print(Text(f"{title}: {pluralize(len(heads), 'head')}, found by {evidence}", style="bold"))
    for head in heads:
        _print_head(out, head)
    _print_list(out, "Rejected", (f"{item.path or 'the model itself'}: {item.reason}" for item in heads.rejected))
    _print_list(out, "Notes", notes)
    return 0


_EVIDENCE = {
    "meta": "an abstract run on the meta device",
    "fake": "a run under fake tensors",
    "real": "a run with real tensors",
}


def _find(spec: ModelSpec) -> tuple[Heads, tuple[str, ...]]:
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
    return heads, (*heads.notes, *zoo_notes)


def _print_head(out: Console, head: Head) -> None:
    rows = [
        ("aliases", ", ".join(head.aliases)),
        ("kind", f"{head.kind}, {head.in_features} -> {head.num_classes or 'no classes yet'}"),
        ("role", head.role),
        ("class dimension", str(head.class_dim)),
        ("activation", head.activation or "none"),
        ("outputs", ", ".join(head.outputs)),
        ("tensors", ", ".join(head.tensors)),
        ("path", " -> ".join(step.name or "the model itself" for step in head.path_to_output)),
    ]
    rows += [("" if number else "evidence", sentence) for number, sentence in enumerate(head.evidence)]
    out.print()
    out.print(Text(head.path or "the model itself", style="bold green"))
    for title, value in rows:
        if value:
            out.print(Text.assemble((f"  {title:<17}", "dim"), value))


def _print_list(out: Console, title: str, sentences: Iterable[str]) -> None:
    lines = list(sentences)
    if lines:
        out.print()
        out.print(Text(title, style="bold"))
        for line in lines:
            out.print(Text(f"  {line}"))


def _print_rejected(out: Console, error: HeadSwapError) -> None:
    _print_list(out, "Rejected", error.rejected)
