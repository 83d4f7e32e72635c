"""Resolve the model to check outside a zoo run: a module, a model of a zoo by name, or a `ModelSpec`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_headswap.case.options import CaseOptions
from pytest_headswap.results.ids import DEFAULT_ZOO, CheckId, reproduce_command
from pytest_headswap.zoo.registry import load_spec

if TYPE_CHECKING:
    from torch import nn

    from pytest_headswap.case.case import Case
    from pytest_headswap.engine import NoHeadError
    from pytest_headswap.zoo import ModelSpec


@dataclass(frozen=True)
class Target:
    """A model and the name of its zoo.

    Attributes:
        reproducible: whether a run over the zoo finds the same model, so that a command can repeat a check.
    """

    zoo: str
    spec: ModelSpec
    reproducible: bool = False

    def test_id(self, check: str) -> CheckId:
        """Return the id of this check's result."""
        return CheckId(self.zoo, self.spec.name, check)

    def repro(self, check: str, options: CaseOptions) -> str:
        """Return the command that repeats a check; empty if no command can."""
        return reproduce_command(self.test_id(check), options.flags()) if self.reproducible else ""

    def build_without_head(self, options: CaseOptions, no_head: NoHeadError) -> Case:
        """Build the case of a model that has no head, for checks that need none."""
        from pytest_headswap.case.build import build_case_without_head
        from pytest_headswap.harness.memory_budget import resolve_memory_budget

        memory = resolve_memory_budget(options.memory_limit, workers=1).tensor_bytes
        return build_case_without_head(self.zoo, self.spec, options, no_head, tensor_bytes=memory)

    def build(self, options: CaseOptions) -> Case:
        """Build the case. A module passed by the user keeps its new head until `case.swap.restore()`."""
        from pytest_headswap.case.build import build_case
        from pytest_headswap.engine import HeadSwapError
        from pytest_headswap.harness.memory_budget import resolve_memory_budget

        memory = resolve_memory_budget(options.memory_limit, workers=1).tensor_bytes
        case = build_case(self.zoo, self.spec, options, tensor_bytes=memory)
        try:
            case.refuse_if_forward_keeps_old_count()
        except HeadSwapError:
            case.swap.restore()
            raise
        return case


def resolve_target(
    model: Any,
    example_inputs: Any = None,
    build_native: Callable[[int], nn.Module] | None = None,
    name: str | None = None,
    head: str | None = None,
) -> Target:
    """Return the target for the user's arguments; arguments other than the model override what the zoo says.

    Raises:
        ZooError: there is no such zoo or model.
        TypeError: `model` is not a `torch.nn.Module`, a `ModelSpec` or text.
    """
    from torch import nn

    from pytest_headswap.zoo import ModelSpec

    changes: dict[str, Any] = {"build_native": build_native, "name": name, "head": head}
    if example_inputs is not None:
        changes["example_inputs"] = lambda _: example_inputs
    changes = {key: value for key, value in changes.items() if value is not None}
    if isinstance(model, str):
        zoo, spec = load_spec(model)
        return Target(zoo, replace(spec, **changes), reproducible=not changes)
    if isinstance(model, nn.Module):
        spec = ModelSpec(type(model).__name__, build=lambda: model)
    elif isinstance(model, ModelSpec):
        spec = model
    else:
        hint = f": pass {model.__name__}() and not the class" if isinstance(model, type) else ""
        raise TypeError(f"{model!r} is not a torch.nn.Module, a ModelSpec or text such as 'timm:resnet18'{hint}")
    return Target(DEFAULT_ZOO, replace(spec, **changes))
