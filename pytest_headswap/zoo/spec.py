"""The data types of a zoo: the names of its models, and how to build each model on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_headswap._text import did_you_mean, join_first
from pytest_headswap.zoo.class_count import class_count_problem

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from pytest_headswap.engine import Head


class ZooError(Exception):
    """A zoo or model name is invalid; the message says what to type instead."""


@dataclass(frozen=True)
class ModelSpec:
    """One architecture of a zoo.

    Attributes:
        name: unique in its zoo; used in test ids and reports.
        build: returns the model as the zoo ships it, with random weights, on the current default device.
            `with torch.device("meta")` builds it without memory.
        example_inputs: returns the inputs of `forward` for the built model: a tensor, a tuple of positional inputs or
            a mapping of keyword inputs. None: the engine infers them.
        build_native: returns the model as the zoo builds it for a given class count, or raises. A class or a function
            takes the count as `num_classes`; a function of one parameter may call it anything. None: the zoo cannot
            build it, and `native_parity` is skipped.
        skip_reason: the reason why this model cannot be swapped, such as a package that is not installed. The model
            is then skipped and never built. Empty: the model runs.
        head: path of the head to swap, or several paths, for a model with several heads that predict different classes.
        family: groups architectures in reports, such as `resnet`.
        tags: free labels.
        metadata_notes: takes the model and its heads. If the library's metadata names another head, returns sentences
            for the report.
        small_variant: returns the spec of this architecture for a smaller input, which costs less to compute. Only the
            inputs and tensors such as position tables may differ, never the head. None: no such variant. Checks then
            use the shipped architecture, on the smallest input that it accepts.
        enable_grad_checkpointing: turns gradient checkpointing on in a model, or raises if the model offers none. None:
            the check `grad_checkpointing` is skipped.
        save_and_load: takes a model and an empty folder. Saves the model there with its library, and returns the model
            that the library loads from there, or raises. None: the check `hub_round_trip` uses the `state_dict`.
        defined_in: names of the modules that define this model, such as `mypackage.tiny`. For `--headswap-since`, only
            these modules, what they import, and the file of the zoo count. Empty: the modules of the entry's classes
            if it holds no function, or else everything that Python imports along with the zoo.

    Raises:
        ZooError: the parameters of `build_native` do not say which one is the class count.
    """

    name: str
    build: Callable[[], nn.Module]
    example_inputs: Callable[[nn.Module], Any] | None = None
    build_native: Callable[[int], nn.Module] | None = None
    skip_reason: str = ""
    head: str | Sequence[str] | None = None
    family: str = ""
    tags: tuple[str, ...] = ()
    metadata_notes: Callable[[nn.Module, Sequence[Head]], tuple[str, ...]] | None = None
    small_variant: Callable[[], ModelSpec] | None = None
    enable_grad_checkpointing: Callable[[nn.Module], object] | None = None
    save_and_load: Callable[[nn.Module, Path], nn.Module] | None = None
    defined_in: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.build_native is not None and (problem := class_count_problem(self.build_native)):
            raise ZooError(f"build_native of {self.name!r} {problem}")


@dataclass(frozen=True)
class Zoo:
    """A named collection of architectures, sorted by name.

    `spec(name)` returns the `ModelSpec` of one of `names`. It must be cheap and build nothing.

    Raises:
        ZooError: a name is not text, is empty, or is not unique.
    """

    name: str
    names: tuple[str, ...]
    spec: Callable[[str], ModelSpec]
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that provide the models, for reports."""

    def __post_init__(self) -> None:
        names: tuple[Any, ...] = self.names  # annotated as text, but users may pass anything
        seen: set[str] = set()
        for name in names:
            if not isinstance(name, str) or not name:
                raise ZooError(f"zoo {self.name!r} has a model named {name!r}: names must be non-empty text")
            if name in seen:
                raise ZooError(f"zoo {self.name!r} has two models named {name!r}: names must be unique")
            seen.add(name)
        object.__setattr__(self, "names", tuple(sorted(self.names)))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[ModelSpec]:
        return (self.spec(name) for name in self.names)

    def __getitem__(self, name: str) -> ModelSpec:
        if name not in self.names:
            raise ZooError(unknown_name("model", name, self.names, f"zoo {self.name!r}"))
        return self.spec(name)


def unknown_name(what: str, name: str, known: Sequence[str], where: str = "") -> str:
    """Return the message for an unknown name, with close matches. `where` names what was searched."""
    hint = did_you_mean(name, known)
    place = f" in {where}" if where else ""
    return f"unknown {what} {name!r}{place}{hint if hint != '.' else f': known are {join_first(known)}'}"
