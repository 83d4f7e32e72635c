"""Swap heads, save the models, load them with their library alone, compare outputs, and write `conformance/SAVED.md`.

    python -m conformance.save_and_load timm:35 torchvision:6 transformers:5

`timm:35` takes every 35th model of the zoo, `timm:35:3` begins with the fourth model. A class with `from_pretrained`
is saved by `save_pretrained`. Any other model gives its `state_dict` to a model that the library builds with the new
class count. Models of more than 200 million parameters are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from conformance.sampled_models import origin, sample
from pytest_headswap import HeadSwapWarning, ModelSpec, swap_head
from pytest_headswap.engine import flatten_outputs, read_inputs

if TYPE_CHECKING:
    from torch import nn

COUNT = 7
MAX_PARAMETERS = 200_000_000
TABLE = Path(__file__).with_name("SAVED.md")
OUTCOMES = ("equal", "different", "error", "left out")
FAILURES = ("different", "error")
"""Outcomes that somebody has to look into."""


def save_and_load(spec: ModelSpec) -> tuple[str, str]:
    """Return one of `OUTCOMES` for a model, and details."""
    if spec.skip_reason or spec.build_native is None:
        return "left out", spec.skip_reason or "the zoo cannot build it with a class count"
    try:
        with torch.device("meta"):
            if sum(parameter.numel() for parameter in spec.build().parameters()) > MAX_PARAMETERS:
                return "left out", "it is too large"
    except Exception:  # noqa: BLE001 - some initialisers need values
        pass
    try:
        model = spec.build()
        inputs = None if spec.example_inputs is None else spec.example_inputs(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeadSwapWarning)
            swap_head(model, COUNT, inputs, head=spec.head)
        loaded = _loaded(spec, model)
        ours, theirs = _outputs(model, inputs), _outputs(loaded, inputs)
    except Exception as error:  # noqa: BLE001 - a library may raise anything
        if not _loads_unchanged(spec):
            return "left out", "the library cannot load it before a swap either"
        return "error", f"{type(error).__name__}: {error}".splitlines()[0]
    wrong = [label for label, value in ours.items() if not _same(value, theirs.get(label))]
    return ("different", ", ".join(wrong)) if wrong or ours.keys() != theirs.keys() else ("equal", "")


def _loads_unchanged(spec: ModelSpec) -> bool:
    try:
        _loaded(replace(spec, build_native=lambda _: spec.build()), spec.build())
    except Exception:  # noqa: BLE001 - a library may raise anything
        return False
    return True


def _loaded(spec: ModelSpec, model: Any) -> nn.Module:
    if not hasattr(type(model), "from_pretrained"):
        assert spec.build_native is not None
        native = spec.build_native(COUNT)
        native.load_state_dict(model.state_dict())
        return native
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
    problems = {kind: keys for kind, keys in info.items() if keys}
    if problems:
        raise RuntimeError(f"from_pretrained reports {problems}")
    return loaded  # type: ignore[no-any-return]


def _outputs(model: nn.Module, inputs: Any) -> dict[str, torch.Tensor]:
    arguments = read_inputs(inputs)
    assert arguments is not None, "the zoo gives no inputs"
    torch.manual_seed(0)
    with torch.no_grad():
        return dict(flatten_outputs(model.eval()(*arguments.args, **arguments.kwargs)))


def _same(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.allclose(one, other, 1e-4, 1e-5, equal_nan=True)


def write_table(results: dict[str, list[tuple[str, str, str]]], where_from: Sequence[str], path: Path) -> None:
    """Write the counts of all zoos, and the models that did not come back equal."""
    lines = [
        "# Saved and loaded models",
        "",
        *where_from,
        "",
        "Each model gets a new head, is saved, and is loaded with its library alone. `equal` means that both models",
        "return the same outputs.",
        "",
        f"| zoo | models | {' | '.join(OUTCOMES)} |",
        f"| --- |{' ---: |' * (1 + len(OUTCOMES))}",
    ]
    for zoo, found in results.items():
        counts = Counter(outcome for _, outcome, _ in found)
        lines.append(f"| {zoo} | {len(found)} | {' | '.join(str(counts[outcome]) for outcome in OUTCOMES)} |")
    details = [
        f"- {zoo} `{model}` ({outcome}): {detail}"
        for zoo, found in results.items()
        for model, outcome, detail in found
        if outcome != "equal"
    ]
    path.write_text("\n".join([*lines, "", "## Details", "", *(details or ["None."])]) + "\n", encoding="utf-8")


def main() -> int:
    """Run the zoos and write the table. Return 1 if a model came back different, or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoos", nargs="+", type=sample, metavar="ZOO[:STEP[:START]]")
    parser.add_argument("--output", type=Path, default=TABLE, help="the file (default: conformance/SAVED.md)")
    arguments = parser.parse_args()
    results: dict[str, list[tuple[str, str, str]]] = {}
    for item in arguments.zoos:
        name, found = item.zoo.name, results.setdefault(item.zoo.name, [])
        for spec in item.specs():
            outcome, detail = save_and_load(spec)
            found.append((spec.name, outcome, detail))
            if outcome != "equal":
                print(f"{name}::{spec.name}: {outcome}: {detail}", flush=True)
    write_table(results, origin("save_and_load", arguments.zoos), arguments.output)
    print(arguments.output)
    return int(any(outcome in FAILURES for found in results.values() for _, outcome, _ in found))


if __name__ == "__main__":
    sys.exit(main())
