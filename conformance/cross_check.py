"""Compare the heads that `find_heads` finds with the zoo's own factory, and write `conformance/CROSSCHECK.md`.

    python conformance/cross_check.py FOLDER timm torchvision transformers

The zoo builds each model with two class counts. A tensor whose shape differs between the two builds depends on the
class count. `find_heads` sees only the first build, and has to name exactly these tensors. Nothing is swapped.

Results go to `FOLDER/<zoo>.jsonl`. A second call continues with the models that are missing there.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from pytest_headswap import HeadSwapError, ModelSpec, NoHeadError, Zoo, __version__, find_heads, load_zoo
from pytest_headswap.zoo import select_models

if TYPE_CHECKING:
    from torch import nn

TABLE = Path(__file__).with_name("CROSSCHECK.md")
COUNTS = (7, 11)
FAILURES = ("unexplained", "error")
"""Outcomes that somebody has to look into."""
FinderOfHeads = Callable[["nn.Module", Any], Iterable[Any]]


@dataclass(frozen=True)
class Explained:
    """A difference that is known to be right, and the reason."""

    zoo: str
    models: str
    tensors: str
    reason: str

    def covers(self, zoo: str, model: str, tensor: str) -> bool:
        """Return whether the entry explains the difference in this tensor."""
        return zoo == self.zoo and fnmatchcase(model, self.models) and fnmatchcase(tensor, self.tensors)


EXPLAINED = (
    Explained(
        "transformers",
        "LayoutLMv3ForTokenClassification",
        "classifier.*.*",
        "from 10 classes on, the library builds a head of two layers in place of one",
    ),
)


@dataclass(frozen=True)
class Comparison:
    """The result for one model.

    Attributes:
        model: its name in the zoo.
        agreed: the tensors that depend on the class count and that `find_heads` names.
        unnamed: tensors that depend on the class count, but that `find_heads` does not name.
        wrongly_named: tensors that `find_heads` names although both builds have them in one shape.
        error: the error of the factory or of `find_heads`.
        skipped: the reason why there is nothing to compare.
    """

    model: str
    agreed: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()
    wrongly_named: tuple[str, ...] = ()
    error: str = ""
    skipped: str = ""

    @property
    def differences(self) -> tuple[str, ...]:
        """Return the tensors on which the factory and `find_heads` disagree."""
        return (*self.unnamed, *self.wrongly_named)

    def unexplained(self, zoo: str, explained: Iterable[Explained] | None = None) -> tuple[str, ...]:
        """Return the differences that no entry covers, by default none of `EXPLAINED`."""
        entries = EXPLAINED if explained is None else tuple(explained)
        return tuple(
            tensor for tensor in self.differences if not any(e.covers(zoo, self.model, tensor) for e in entries)
        )

    def outcome(self, zoo: str) -> str:
        """Return `same`, `no head`, `explained`, `unexplained`, `error` or `skipped`."""
        if self.skipped:
            return "skipped"
        if self.error and (self.unexplained(zoo) or not self.differences):
            return "error"
        if self.differences:
            return "unexplained" if self.unexplained(zoo) else "explained"
        return "same" if self.agreed else "no head"


def compare(spec: ModelSpec, find: FinderOfHeads = find_heads) -> Comparison:
    """Build one model with both class counts, and compare the tensors that differ with those that `find` names."""
    if spec.skip_reason or spec.build_native is None:
        return Comparison(spec.name, skipped=spec.skip_reason or "the zoo cannot build it with a class count")
    try:
        model, other = (on_meta_if_possible(spec.build_native, count) for count in COUNTS)
    except Exception as error:  # noqa: BLE001 - a zoo may raise anything
        return Comparison(spec.name, error=f"the zoo cannot build it: {type(error).__name__}: {error}")
    tensors = dict(_tensors(model))
    first_names = _first_names(tensors)
    differing = class_sized(model, other)
    message = ""
    named: set[str] = set()
    try:
        named = {first_names[id(tensors[name])] for name in _names_found(spec, model, find)}
    except NoHeadError as error:
        message = error.message if differing else ""
    except HeadSwapError as error:
        message = error.message
    return Comparison(
        spec.name,
        tuple(sorted(differing & named)),
        tuple(sorted(differing - named)),
        tuple(sorted(named - differing)),
        message,
    )


def class_sized(model: nn.Module, other: nn.Module) -> set[str]:
    """Return the tensors of the first build whose shape differs in the other, and those that only the other has."""
    tensors, others = dict(_tensors(model)), dict(_tensors(other))
    first_names = _first_names(tensors)
    return {
        first_names[id(tensor)]
        for name, tensor in tensors.items()
        if name not in others or others[name].shape != tensor.shape
    } | (others.keys() - tensors.keys())


def _first_names(tensors: dict[str, torch.Tensor]) -> dict[int, str]:
    return {id(tensor): name for name, tensor in reversed(tensors.items())}  # tied tensors count once


def _names_found(spec: ModelSpec, model: nn.Module, find: FinderOfHeads) -> set[str]:
    try:
        return _head_tensors(spec, model, find)
    except HeadSwapError:
        if not any(tensor.is_meta for _, tensor in _tensors(model)):
            raise
    assert spec.build_native is not None
    return _head_tensors(spec, spec.build_native(COUNTS[0]), find)  # its forward may need values


def _head_tensors(spec: ModelSpec, model: nn.Module, find: FinderOfHeads) -> set[str]:
    inputs = None if spec.example_inputs is None else spec.example_inputs(model)
    return {name for head in find(model, inputs) for name in head.tensors}


def on_meta_if_possible(build: Callable[[int], nn.Module], count: int) -> nn.Module:
    """Build a model for a class count, on the meta device unless its initialisers need values."""
    try:
        with torch.device("meta"):
            return build(count)
    except Exception:  # noqa: BLE001 - some initialisers need values
        return build(count)


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def run(zoo: Zoo, names: Iterable[str], journal: Path) -> list[Comparison]:
    """Compare the models that the journal lacks, append them to it, and return all of its results."""
    results = read(journal)
    done = {result.model for result in results}
    with journal.open("ab") as file:
        for name in names:
            if name not in done:
                result = compare(zoo[name])
                file.write(msgspec.json.encode(result) + b"\n")
                file.flush()
                results.append(result)
                if result.outcome(zoo.name) in FAILURES:
                    print(f"{zoo.name}::{name}: {result}", flush=True)
    return results


def read(journal: Path) -> list[Comparison]:
    """Return the results in a journal; none if it does not exist."""
    if not journal.exists():
        return []
    lines = journal.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Comparison) for line in lines]


def write_table(results: Mapping[str, list[Comparison]], versions: Mapping[str, str], path: Path) -> None:
    """Write the counts of all zoos, the explained differences and the unexplained ones."""
    lines = [
        "# Cross-check",
        "",
        f"Written by `python conformance/cross_check.py` on {datetime.now(timezone.utc):%Y-%m-%d}, with",
        f"{', '.join(' '.join(item) for item in versions.items())}.",
        "",
        f"The zoo builds each model with {COUNTS[0]} and with {COUNTS[1]} classes. `find_heads` sees only the first",
        "build, and has to name exactly the tensors whose shapes differ between the two.",
        "",
        "| zoo | models | tensors | same | no head | explained | unexplained | error | skipped |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for zoo, found in results.items():
        kinds = Counter(result.outcome(zoo) for result in found)
        tensors = sum(len(result.agreed) for result in found)
        columns = [kinds[kind] for kind in ("same", "no head", "explained", "unexplained", "error", "skipped")]
        lines.append(f"| {zoo} | {len(found):,} | {tensors:,} | " + " | ".join(f"{n:,}" for n in columns) + " |")
    for title, kind in (
        ("Unexplained", "unexplained"),
        ("Errors", "error"),
        ("No head in either build", "no head"),
        ("Skipped", "skipped"),
    ):
        items = [(zoo, result) for zoo, found in results.items() for result in found if result.outcome(zoo) == kind]
        lines += ["", f"## {title}", ""] + ([f"- {zoo} `{r.model}`{_detail(r)}" for zoo, r in items] or ["None."])
    lines += ["", "## Explained differences", ""]
    for entry in EXPLAINED:
        models = [
            result.model
            for result in results.get(entry.zoo, [])
            if any(entry.covers(entry.zoo, result.model, tensor) for tensor in result.differences)
        ]
        lines.append(f"- {entry.zoo} `{entry.models}`, `{entry.tensors}` (models: {len(models)}): {entry.reason}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _detail(result: Comparison) -> str:
    tensors = {"not named": result.unnamed, "named, but the same in both builds": result.wrongly_named}
    listed = [f"{title} {', '.join(f'`{name}`' for name in names)}" for title, names in tensors.items() if names]
    details = [*listed, *filter(None, (result.error, result.skipped))]
    return f": {'; '.join(details)}".replace("\n", " ") if details else ""


def main() -> int:
    """Run the zoos and write the table. Return 1 if a difference is unexplained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("zoos", nargs="+")
    parser.add_argument("--models", default="*", help="glob of the models to compare (default: all)")
    parser.add_argument("--output", type=Path, default=TABLE, help="the file (default: conformance/CROSSCHECK.md)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = {}
    versions = {"pytest-headswap": __version__, "torch": torch.__version__.partition("+")[0]}
    for name in arguments.zoos:
        zoo = load_zoo(name)
        versions |= {library: version.partition("+")[0] for library, version in zoo.versions.items()}
        results[name] = run(zoo, select_models(zoo, arguments.models), arguments.folder / f"{name}.jsonl")
    write_table(results, versions, arguments.output)
    print(arguments.output)
    return int(any(r.outcome(zoo) in FAILURES for zoo, found in results.items() for r in found))


if __name__ == "__main__":
    sys.exit(main())
