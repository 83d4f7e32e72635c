"""What a zoo is: names, and for each name how to build the model. Nothing is built until it is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from pytest_headswap.engine import Head


class ZooError(Exception):
    """A zoo or a model name cannot be used; the message says what to type instead."""


@dataclass(frozen=True)
class ModelSpec:
    """One architecture of a zoo.

    Attributes:
        name: unique in its zoo; stands in test ids and reports.
        build: returns the model as the zoo ships it, with random weights, on the current default
            device (so that `with torch.device("meta")` builds it without memory).
        example_inputs: given the built model, returns what `forward` takes: a tensor, a tuple of
            positional inputs or a mapping of keyword inputs. None: the engine works them out.
        native: given a class count, returns the model as the zoo itself builds it for that count,
            or raises. None: the zoo cannot do that, and parity is not compared.
        refusal: why the model cannot be swapped here, when the zoo knows: it has no classes, or needs a
            package that is not installed. It is then skipped by name and never built.
        head: path of the one head to swap, for a model whose heads mean different things.
        family: groups architectures in reports, such as `resnet`.
        tags: free labels.
        notes: given the model and the heads that were found, what the library itself says of its head
            where that differs, in sentences for the report.
        small: gives the spec of the same architecture built for the smallest input that it can be built
            for, where arithmetic costs less; what changes beside the input are position tables and the
            like, never the head. None: the architecture as it ships, on whatever smaller input it takes.
    """

    name: str
    build: Callable[[], nn.Module]
    example_inputs: Callable[[nn.Module], Any] | None = None
    native: Callable[[int], nn.Module] | None = None
    refusal: str = ""
    head: str | None = None
    family: str = ""
    tags: tuple[str, ...] = ()
    notes: Callable[[nn.Module, Sequence[Head]], tuple[str, ...]] | None = None
    small: Callable[[], ModelSpec] | None = None


@dataclass(frozen=True)
class Zoo:
    """A named collection of architectures, sorted by name.

    `make(name)` gives the `ModelSpec` of one of `names`; it must be cheap and build nothing.

    Raises:
        ZooError: a name is not text or is empty, or two are the same.
    """

    name: str
    names: tuple[str, ...]
    make: Callable[[str], ModelSpec]
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that the models come from, for reports."""

    def __post_init__(self) -> None:
        names: tuple[Any, ...] = self.names  # the type says text, users may not
        seen: set[str] = set()
        for name in names:
            if not isinstance(name, str) or not name:
                raise ZooError(f"zoo {self.name!r} calls a model {name!r}: names have to be text that is not empty")
            if name in seen:
                raise ZooError(f"zoo {self.name!r} has two models called {name!r}: names have to be unique")
            seen.add(name)
        object.__setattr__(self, "names", tuple(sorted(self.names)))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[ModelSpec]:
        return (self.make(name) for name in self.names)

    def __getitem__(self, name: str) -> ModelSpec:
        if name not in self.names:
            raise ZooError(unknown_name("model", name, self.names, f"zoo {self.name!r}"))
        return self.make(name)


def unknown_name(what: str, name: str, known: Sequence[str], where: str) -> str:
    """The message for a name that does not exist, with those that come close."""
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.6)
    hint = f"did you mean {', '.join(close)}?" if close else f"it has {', '.join(known[:5])}"
    if not close and len(known) > 5:
        hint += f" and {len(known) - 5} more"
    return f"unknown {what} {name!r} in {where}: {hint}"
