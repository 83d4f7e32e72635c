"""Pass the class count to a user's factory, under the name of its parameter for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import Any

NAME = "num_classes"
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def build_with_class_count(factory: Callable[..., Any], num_classes: int) -> Any:
    """Call a factory with a class count: by the name of its parameter if that is clear, otherwise as first argument."""
    parameters = parameters_of(factory)
    name = NAME if _takes_keyword(parameters) else _like_class_count(parameters)
    return factory(**{name: num_classes}) if name else factory(num_classes)


def class_count_problem(factory: Any) -> str:
    """Return why it is unclear which parameter of a factory is the class count; empty if it is clear."""
    if not callable(factory):
        return f"is {factory!r}: pass a function of the class count"
    parameters = parameters_of(factory)
    if _takes_keyword(parameters) or _like_class_count(parameters):
        return ""
    if not parameters or parameters[0].kind is Parameter.VAR_POSITIONAL:
        return ""
    by_position = [item for item in parameters if item.kind in _BY_POSITION]
    if by_position and by_position[0].name == NAME:
        return ""
    while isinstance(factory, partial):
        factory = factory.func
    candidates = [item for item in by_position if _is_required(item)] or by_position
    if len(candidates) == 1 and (_is_required(candidates[0]) or not isinstance(factory, type)):
        return ""
    names = [item.name for item in parameters]
    where = "only by position, after other parameters" if NAME in names else "under no such name"
    return (
        f"has the parameters {', '.join(names)} and takes {NAME} {where}: pass a function of the class count, such as "
        f"lambda {NAME}: {getattr(factory, '__name__', 'build')}(..., {NAME})"
    )


def parameters_of(factory: Callable[..., Any]) -> list[Parameter]:
    """Return the parameters of a factory; empty if Python does not know them."""
    try:
        return list(signature(factory).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return []


def _takes_keyword(parameters: Sequence[Parameter]) -> bool:
    """Return whether `num_classes` can be passed by keyword, alone if only `**options` accept it."""
    if any(item.name == NAME and item.kind is not Parameter.POSITIONAL_ONLY for item in parameters):
        return True
    return any(item.kind is Parameter.VAR_KEYWORD for item in parameters) and not any(map(_is_required, parameters))


def _like_class_count(parameters: Sequence[Parameter]) -> str:
    """Return the only parameter whose name speaks of classes or labels, and that can be passed by name, or ""."""
    named = [item for item in parameters if "class" in item.name.lower() or "label" in item.name.lower()]
    return named[0].name if len(named) == 1 and named[0].kind in _BY_NAME else ""


def _is_required(parameter: Parameter) -> bool:
    return parameter.kind in _BY_POSITION and parameter.default is parameter.empty
