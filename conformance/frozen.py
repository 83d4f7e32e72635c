"""Freeze every n-th model of a zoo, train its new head for two steps, and write `conformance/FROZEN.md`.

    python -m conformance.frozen timm:7 torchvision:2 transformers:6

`timm:7` takes every 7th model of the zoo, `timm:7:3` begins with the fourth model. Training uses SGD with momentum and
weight decay over all parameters, in train mode if the model has one. Afterwards every parameter and buffer outside the
head has to be bit-identical, and the head has to differ. This uses neither the check `frozen_backbone` nor its
training. A model that takes too much memory has no values; there, `freeze_backbone` only verifies the data flow
(evidence `abstract`).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from conformance.sampled_models import origin, sample
from pytest_headswap import HeadSwapError, NoHeadError, freeze_backbone
from pytest_headswap.case.build import build_case
from pytest_headswap.case.options import AUTO, CaseOptions
from pytest_headswap.case.tensor_names import head_names
from pytest_headswap.case.value_snapshot import bitwise_equal, named_tensors
from pytest_headswap.engine import flatten_outputs

if TYPE_CHECKING:
    from pytest_headswap.case.case import Case
    from pytest_headswap.zoo import ModelSpec

TABLE = Path(__file__).with_name("FROZEN.md")
FAILURES = ("changed", "head unchanged", "error")
"""Outcomes that somebody has to look into."""


@dataclass(frozen=True)
class Frozen:
    """The result for one model: `kept`, `changed`, `head unchanged`, `refused`, `no head` or `error`."""

    model: str
    outcome: str
    evidence: str = ""
    detail: str = ""
    notes: tuple[str, ...] = ()


def freeze_and_train(zoo: str, spec: ModelSpec, memory_limit: str = AUTO) -> Frozen:
    """Swap the head of a model, freeze the backbone, train, and compare all tensors."""
    evidence = ""
    try:
        case = build_case(zoo, spec, CaseOptions(memory_limit=memory_limit))
        evidence = case.evidence
        with case.seeded("frozen"):
            frozen = freeze_backbone(case.swap, case.inputs)
            outcome, detail = _train(case) if case.numeric else ("kept", "")
        return Frozen(spec.name, outcome, evidence, detail, frozen.notes)
    except NoHeadError as error:
        return Frozen(spec.name, "no head", evidence, error.message)
    except HeadSwapError as error:
        return Frozen(spec.name, "refused", evidence, error.message)
    except Exception as error:  # noqa: BLE001 - a model may raise anything
        return Frozen(spec.name, "error", evidence, f"{type(error).__name__}: {error}")


def _train(case: Case) -> tuple[str, str]:
    model, head = case.model, head_names(case.swap)
    labels = {label for item in case.swap.heads for label in item.outputs}
    before = {name: tensor.detach().clone() for name, tensor in named_tensors(model)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        model.train(case.can_train)
        outputs = flatten_outputs(model(*case.inputs.args, **case.inputs.kwargs))
        losses = [
            (tensor * torch.randn_like(tensor)).mean()
            for label, tensor in outputs
            if label in labels and tensor.requires_grad
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()
    now = dict(named_tensors(model))
    changed = {name for name, tensor in before.items() if name not in now or not bitwise_equal(tensor, now[name])}
    assert case.original_values is not None
    case.original_values.restore()
    if changed - head:
        return "changed", ", ".join(sorted(changed - head)[:5])
    return ("kept", "") if changed else ("head unchanged", "")


def write_table(results: dict[str, list[Frozen]], where_from: Sequence[str], path: Path) -> None:
    """Write the counts of all zoos, and the models whose backbone was not kept."""
    lines = [
        "# Frozen backbones",
        "",
        *where_from,
        "",
        "Each model gets a new head, its backbone is frozen, and the head takes two steps of SGD with momentum",
        "and weight decay. `kept` means that every tensor outside the head is bit-identical, and the head is not.",
        "",
        "| zoo | models | kept, numeric | kept, abstract | with a note | refused | changed | error | no head |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for zoo, found in results.items():
        kinds = Counter(item.outcome for item in found)
        kept = kinds["kept"]
        numeric = sum(item.outcome == "kept" and item.evidence == "numeric" for item in found)
        noted = sum(bool(item.notes) for item in found)
        other = kinds["changed"] + kinds["head unchanged"]
        lines.append(
            f"| {zoo} | {len(found)} | {numeric} | {kept - numeric} | {noted} | {kinds['refused']} | {other} | "
            f"{kinds['error']} | {kinds['no head']} |"
        )
    details = [
        f"- {zoo} `{item.model}` ({item.outcome}): {' '.join((item.detail, *item.notes)).strip()}".replace("\n", " ")
        for zoo, found in results.items()
        for item in found
        if item.outcome != "kept" or item.notes
    ]
    path.write_text("\n".join([*lines, "", "## Details", "", *(details or ["None."])]) + "\n", encoding="utf-8")


def main() -> int:
    """Run the zoos and write the table. Return 1 if a backbone changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoos", nargs="+", type=sample, metavar="ZOO[:STEP[:START]]")
    parser.add_argument("--output", type=Path, default=TABLE, help="the file (default: conformance/FROZEN.md)")
    parser.add_argument("--memory-limit", default=AUTO, help="train a model only within this memory, such as 1GiB")
    arguments = parser.parse_args()
    results: dict[str, list[Frozen]] = {}
    for item in arguments.zoos:
        name, found = item.zoo.name, results.setdefault(item.zoo.name, [])
        for spec in item.specs():
            result = freeze_and_train(name, spec, arguments.memory_limit)
            found.append(result)
            if result.outcome != "kept" or result.notes:
                print(f"{name}::{result}", flush=True)
    write_table(results, origin("frozen", arguments.zoos), arguments.output)
    print(arguments.output)
    return int(any(result.outcome in FAILURES for found in results.values() for result in found))


if __name__ == "__main__":
    sys.exit(main())
