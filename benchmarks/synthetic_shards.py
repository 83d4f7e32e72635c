"""Write the journals of a synthetic run: the models of a real journal under many names, with failures added.

The models of the real journal take turns until there are enough architectures. Of each 1,000 architectures, 16 get a
result that a zoo without failures lacks; `FAULTS` has the number and the message of each kind.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_headswap.results import JournalHeader, JournalWriter, Outcome, Result, read_journal
from pytest_headswap.results.completeness import encode_selection
from pytest_headswap.results.merge import shard_options

Model = list[Result]

FAULTS: Mapping[Outcome, tuple[int, str]] = {
    "failed": (6, "training the head changed {model}.norm.running_mean, which belongs to the backbone"),
    "xfailed": (5, "the swapped model returns logits of shape (2, 1000), not (2, 7)"),
    "error": (3, "[build_failed] {model} could not be built: RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    "timeout": (1, "timed out after 300 s (--headswap-timeout) while running {model}"),
    "crashed": (1, "the process of the model was killed by SIGSEGV"),
}
"""By outcome: how many of 1,000 architectures have it, and the message."""


def write_shards(folder: Path, journal: Path, architectures: int, shards: int) -> list[Path]:
    """Write the journals of all shards; return their folders.

    Args:
        folder: the folder for the folders of the shards.
        journal: the real journal, or its folder.
        architectures: the number of architectures in all.
        shards: the number of shards.
    """
    header, results = read_journal(journal)
    models: dict[tuple[str, str], Model] = {}
    for result in results:
        models.setdefault((result.zoo, result.model), []).append(result)
    names = [f"{model}.{number // len(models):04}" for number, (_, model) in _cycle(list(models), architectures)]
    zoo = results[0].zoo
    folders = []
    for shard in range(1, shards + 1):
        part = names[shard - 1 :: shards]
        chance = random.Random(shard)
        options = {**header.options, **shard_options(f"{shard}/{shards}", {zoo: part}, {zoo: names})}
        selected = encode_selection((zoo, name, check) for name in part for check in header.options["checks"])
        folders.append(folder / f"shard-{shard}")
        chance.shuffle(part)  # results are written as models end
        with JournalWriter(folders[-1], _header(header, options, selected)) as writer:
            for name in part:
                for result in _copy(models[zoo, name.rpartition(".")[0]], name, chance):
                    writer.write(result)
    return folders


def _cycle(models: Sequence[tuple[str, str]], count: int) -> Iterator[tuple[int, tuple[str, str]]]:
    yield from ((number, models[number % len(models)]) for number in range(count))


def _header(header: JournalHeader, options: Mapping[str, object], selected: Mapping[str, object]) -> JournalHeader:
    return replace(header, options=options, selected=selected, merged={})


def _copy(results: Model, name: str, chance: random.Random) -> Iterator[Result]:
    """Yield the results of a model under another name, perhaps with a fault from one check on."""
    draw = chance.randrange(1000)
    fault: Outcome | None = None
    for outcome, (share, _) in FAULTS.items():
        if 0 <= draw < share:
            fault = outcome
        draw -= share
    first = 0 if fault == "error" else chance.randrange(len(results))
    to_the_end = fault in ("error", "timeout", "crashed")
    for number, result in enumerate(results):
        old = result.model
        texts = {text: getattr(result, text).replace(old, name) for text in ("repro", "nodeid", "message")}
        if fault is not None and (number == first or (to_the_end and number > first)):
            message = FAULTS[fault][1].format(model=name)
            why = "known: the head is shared" if fault == "xfailed" else ""
            yield replace(result, **{**texts, "model": name, "outcome": fault, "message": message, "expectation": why})
        else:
            yield replace(result, **texts, model=name)
