"""Apply the usual ways to replace a head to every model of a zoo, and write `conformance/RECIPES.md`.

    python -m conformance.recipes FOLDER timm torchvision transformers

The zoo builds each model with two class counts. The tensors whose shapes differ between the two belong to the head. A
recipe is right if it replaces, or names, exactly these tensors. Nothing of this package finds a head here.

Results go to `FOLDER/<zoo>.jsonl`. A second call continues with the models that are missing there.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from conformance.cross_check import COUNTS, class_sized, on_meta_if_possible
from conformance.sampled_models import Sample, origin, sample
from pytest_headswap import ModelSpec

TABLE = Path(__file__).with_name("RECIPES.md")
RIGHT, PARTLY, MORE, OTHER, NOTHING, ERROR = "right", "a part", "too much", "another layer", "nothing", "error"
OUTCOMES = (RIGHT, PARTLY, MORE, OTHER, NOTHING, ERROR)
_PEFT_TASKS = ("ForSequenceClassification", "ForTokenClassification")
_PEFT_NAMES = ("classifier", "score")
"""What `LoraConfig(task_type="SEQ_CLS")` and `"TOKEN_CLS"` train in full, in `peft/peft_model.py`."""


LAST_LINEAR = "replace the last `nn.Linear`"
ATTRIBUTE = "assign to `fc`, `classifier` or `head`"
TIMM = "`reset_classifier` of timm"
FASTAI = "`create_body` of fastai"
PEFT = "`classifier` and `score`, as PEFT"
RECIPES = (LAST_LINEAR, ATTRIBUTE, TIMM, FASTAI, PEFT)
_TEXT = """\
The zoo builds each model with 7 and with 11 classes. The tensors whose shapes differ between the two belong to the
head. Models without such tensors do not count.

- Replacing the last registered `nn.Linear`, or assigning a new `nn.Linear` to the attribute, is `right` if it replaces
  exactly the tensors of the head; `a part` if it misses some; `too much` if it replaces other layers as well;
  `another layer` if it replaces no tensor of the head; `nothing` if there is no such layer.
- `reset_classifier(11)` is `right` if the model then has the tensors that timm builds for 11 classes. Some models drop
  their distillation head unless they get `distillation=True`.
- `create_body` is `right` if `create_vision_model` builds a model that returns 11 classes. Its head is another one.
- PEFT trains the modules named `classifier` and `score` in full if the task is to classify sequences or tokens. This is
  `right` if these modules have all tensors of the head.""".splitlines()
_LISTED = 10


@dataclass(frozen=True)
class Tried:
    """The outcome of each recipe for one model. There is none if the model has no head."""

    model: str
    outcomes: dict[str, str]


def last_linear(model: nn.Module, head: set[str]) -> str:
    """Replace the last `nn.Linear` that is registered."""
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    return _judge(_tensors_below(model, linear[-1:]), head)


def usual_attribute(model: nn.Module, head: set[str]) -> str:
    """Assign a new `nn.Linear` to `model.fc`, `model.classifier` or `model.head`, whichever exists."""
    names = [name for name in ("fc", "classifier", "head") if isinstance(getattr(model, name, None), nn.Module)]
    return _judge(_tensors_below(model, names[:1]), head)


def peft_names(model: nn.Module, head: set[str]) -> str:
    """Train the modules that PEFT takes for the head of a text classifier."""
    paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path.endswith(_PEFT_NAMES)]
    return RIGHT if head and head <= _tensors_below(model, paths) else PARTLY if paths else NOTHING


def reset_classifier(model: Any, native: nn.Module) -> str:
    """Call `reset_classifier` of timm, and compare with the model that timm builds for the new class count."""
    try:
        model.reset_classifier(COUNTS[1])
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        return f"{ERROR}: {type(error).__name__}: {error}"
    same = {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in native.state_dict().items()}
    return RIGHT if same else PARTLY


def create_body(name: str) -> str:
    """Cut a model of torchvision with `create_vision_model` of fastai, and run it with fastai's head."""
    try:
        with torch.device("meta"):
            shape = _shape_with_body(name)
    except NotImplementedError:
        shape = _shape_with_body(name)  # its initialisers need values
    return shape if isinstance(shape, str) else RIGHT if shape == (2, COUNTS[1]) else OTHER


def _shape_with_body(name: str) -> tuple[int, ...] | str:
    from fastai.vision.learner import create_vision_model
    from torchvision.models import get_model_builder

    size = 299 if name == "inception_v3" else 224
    try:
        model = create_vision_model(get_model_builder(name), COUNTS[1], pretrained=False)
        return tuple(model.eval()(torch.empty(2, 3, size, size)).shape)
    except Exception as error:
        if "meta tensor" in str(error):
            raise
        return f"{ERROR}: {type(error).__name__}: {error}"


def _tensors_below(model: nn.Module, paths: Sequence[str]) -> set[str]:
    names = {id(tensor): name for name, tensor in reversed(list(model.named_parameters(remove_duplicate=False)))}
    return {names[id(tensor)] for path in paths for tensor in model.get_submodule(path).parameters()}


def _judge(replaced: set[str], head: set[str]) -> str:
    if not replaced:
        return NOTHING
    if replaced == head:
        return RIGHT
    if head < replaced:
        return MORE
    return PARTLY if replaced & head else OTHER


def try_recipes(zoo: str, spec: ModelSpec) -> Tried:
    """Apply the recipes that the zoo's library allows to one model."""
    if spec.skip_reason or spec.build_native is None:
        return Tried(spec.name, {})
    model, native = (on_meta_if_possible(spec.build_native, count) for count in COUNTS)
    head = class_sized(model, native)
    if not head:
        return Tried(spec.name, {})
    outcomes = {LAST_LINEAR: last_linear(model, head), ATTRIBUTE: usual_attribute(model, head)}
    if spec.name.endswith(_PEFT_TASKS):
        outcomes[PEFT] = peft_names(model, head)
    if "classification" in spec.tags and zoo == "torchvision" and find_spec("fastai"):
        outcomes[FASTAI] = create_body(spec.name)
    if zoo == "timm":
        outcomes[TIMM] = reset_classifier(model, native)  # last, because it changes the model
    return Tried(spec.name, outcomes)


def run(item: Sample, journal: Path) -> list[Tried]:
    """Try the models that the journal lacks, append them to it, and return all of its results."""
    lines = journal.read_bytes().splitlines() if journal.exists() else []
    results = [msgspec.json.decode(line, type=Tried) for line in lines]
    done = {result.model for result in results}
    with journal.open("ab") as file:
        for spec in item.specs():
            if spec.name not in done:
                results.append(try_recipes(item.zoo.name, spec))
                file.write(msgspec.json.encode(results[-1]) + b"\n")
                file.flush()
    return results


def table(results: Mapping[str, Sequence[Tried]]) -> list[str]:
    """Return a table of the outcomes by zoo and recipe, then the models on which a recipe is not right."""
    counts = {
        (zoo, recipe): [result for result in found if recipe in result.outcomes]
        for zoo, found in results.items()
        for recipe in RECIPES
    }
    lines = [f"| zoo | recipe | models | {' | '.join(OUTCOMES)} |", "| --- | --- | ---: |" + " ---: |" * len(OUTCOMES)]
    details = ["", "## Models", ""]
    for (zoo, recipe), found in counts.items():
        if not found:
            continue
        kinds = Counter(result.outcomes[recipe].partition(":")[0] for result in found)
        numbers = " | ".join(f"{kinds[kind]:,}" for kind in OUTCOMES)
        lines.append(f"| {zoo} | {recipe} | {len(found):,} | {numbers} |")
        for outcome in sorted({result.outcomes[recipe] for result in found} - {RIGHT}):
            models = [f"`{result.model}`" for result in found if result.outcomes[recipe] == outcome]
            more = f" and {len(models) - _LISTED:,} more" if len(models) > _LISTED else ""
            details.append(f"- {zoo}, {recipe}, {outcome}: {', '.join(models[:_LISTED])}{more}".replace("\n", " "))
    return lines + details


def main() -> int:
    """Try the zoos and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("zoos", nargs="+", type=sample, help="ZOO[:STEP[:START]]")
    parser.add_argument("--output", type=Path, default=TABLE, help="the file (default: conformance/RECIPES.md)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = {item.zoo.name: run(item, arguments.folder / f"{item.zoo.name}.jsonl") for item in arguments.zoos}
    fastai = {"fastai": version("fastai")} if find_spec("fastai") else {}
    lines = ["# The usual recipes", "", *origin("recipes FOLDER", arguments.zoos, versions=fastai), "", *_TEXT]
    arguments.output.write_text("\n".join([*lines, "", *table(results)]) + "\n", encoding="utf-8")
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
