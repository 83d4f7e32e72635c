"""Write where the head of every architecture is: `conformance/heads/<zoo>.tsv`, with one line for each head.

    python -m conformance.atlas -n 2                       # timm, torchvision and transformers
    python -m conformance.atlas timm --models='levit*'     # only these lines, to accept a change

The models run as in `pytest --headswap-zoo`, with abstract evidence; other arguments go to pytest. The report folder
keeps the results, so an interrupted run goes on. `Line` describes the columns. `tests/test_atlas.py` holds the engine
against some lines, `pytest -m conformance conformance` against all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from conformance.sampled_models import run_models
from pytest_headswap import Zoo, __version__, load_zoo
from pytest_headswap._text import escape_unprintable, join_first, single_line
from pytest_headswap.head import PathStep
from pytest_headswap.report import Result, read_journal
from pytest_headswap.results.head_record import SwappedHead
from pytest_headswap.zoo import ZooError, select_models

FOLDER = Path(__file__).with_name("heads")
ZOOS = ("timm", "torchvision", "transformers")
CHECK = "state_dict"
"""The check that costs the least: the heads are recorded with its results."""
_ONLY_TO_OUTPUT = "no other layer consumes its result: it leads only to the output"


class Line(NamedTuple):
    """One line of the atlas: a head, or an architecture without one.

    Attributes:
        architecture, family: the names in the zoo.
        head: path of the module; empty without a head.
        type: class of the module.
        kind, features, classes, dim, role, activation, outputs: as in `Head`, before the swap.
        tensors: names of the class-sized tensors. A dot in front stands for the path of the head.
        before: steps from the last layer of the backbone to the head, each with its class.
        after: steps from the head to the output, such as an activation or a pooling layer.
        run: the tensors of the abstract run on which the finding rests: `meta`, `fake` or `real`.
        evidence: the operation that sets the class dimension, and evidence that not every head has. Without a head:
            the reason code, and the reason.
        notes: what the engine reports when it swaps the heads, on the first line of the architecture.
    """

    architecture: str
    family: str
    head: str = ""
    type: str = ""
    kind: str = ""
    features: str = ""
    classes: str = ""
    dim: str = ""
    role: str = ""
    activation: str = ""
    outputs: str = ""
    tensors: str = ""
    before: str = ""
    after: str = ""
    run: str = ""
    evidence: str = ""
    notes: str = ""


Lines = Mapping[str, Sequence[Line]]
"""The lines of each architecture."""


class AtlasError(Exception):
    """The atlas cannot be read or written; the message says what to do."""


@dataclass(frozen=True)
class Atlas:
    """The atlas of one zoo: the versions from which it comes, and the lines of each architecture."""

    versions: Mapping[str, str]
    lines: Lines

    @classmethod
    def read(cls, path: Path) -> Atlas:
        """Read the atlas of a zoo.

        Raises:
            AtlasError: the file does not exist, or is not an atlas.
        """
        try:
            first, columns, *rows = path.read_text(encoding="utf-8").splitlines()
            versions = dict(item.split(" ") for item in first.removeprefix("# ").split(", "))
            if columns != "\t".join(Line._fields):
                raise ValueError("its columns are those of another version")
            lines = [Line(*dict(zip(Line._fields, row.split("\t"), strict=True)).values()) for row in rows]
        except (OSError, ValueError, TypeError) as error:
            raise AtlasError(f"cannot read {path}: {error}. Write it with `python -m conformance.atlas`") from error
        return cls(versions, by_architecture(lines))

    def write(self, path: Path) -> None:
        """Write the atlas, sorted by architecture and head."""
        rows = [row for _, lines in sorted(self.lines.items()) for row in sorted(lines)]
        texts = (
            f"# {', '.join(' '.join(item) for item in self.versions.items())}",
            *map("\t".join, (Line._fields, *rows)),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")

    def other_version(self, zoo: Zoo) -> str:
        """Return why the atlas says nothing about the installed version of a library; empty if it is the same."""
        for library, version in versions_of(zoo).items():
            if library != "pytest-headswap" and self.versions.get(library) != version:
                return f"the atlas is of {library} {self.versions.get(library)}, and {version} is installed"
        return ""


def versions_of(zoo: Zoo) -> dict[str, str]:
    """Return the versions on which the heads of a zoo depend, without those of builds."""
    versions = {**zoo.versions, "torch": torch.__version__, "pytest-headswap": __version__}
    return {library: version.partition("+")[0] for library, version in versions.items()}


def by_architecture(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Return the lines of each architecture."""
    return {name: list(found) for name, found in groupby(sorted(lines), lambda line: line.architecture)}


def lines_of(result: Result) -> list[Line]:
    """Return the lines of the architecture that a result with its heads is about.

    Raises:
        AtlasError: the model crashed, took too long or could not be built, so it is not known where its head is.
    """
    if result.anatomy is None:
        if result.outcome not in ("skipped", "error") or not result.reason:
            raise AtlasError(f"{result.nodeid} {result.outcome}: {single_line(result.message)}")
        return [_line(result, evidence=single_line(result.message))]
    _, _, tensor_kind = result.evidence.partition(", ")
    run = "" if result.evidence == "numeric" else tensor_kind.removesuffix(" tensors") or "meta"
    lines = sorted(_head_line(result, head, run) for head in result.anatomy.heads)
    return [lines[0]._replace(notes=single_line("; ".join(result.anatomy.notes))), *lines[1:]]


def _head_line(result: Result, head: SwappedHead, run: str) -> Line:
    steps = head.path_to_output
    place = next(place for place, step in enumerate(steps) if step.kind == "head")
    return _line(
        result,
        head=head.path,
        type=steps[place].type,
        kind=head.kind if head.old_num_classes else "identity",  # a swap makes it a layer
        features=str(head.in_features),
        classes=str(head.old_num_classes),
        dim=str(head.class_dim),
        role=head.role,
        activation=head.activation or "",
        outputs=", ".join(head.outputs),
        tensors=", ".join(_relative(name, head.path) for name in head.tensors) if head.old_num_classes else "",
        before=_steps(steps[:place]),
        after=_steps(step for step in steps[place + 1 :] if step.kind != "output"),
        run=run,
        evidence="; ".join(_evidence(head)),
    )


def _line(result: Result, **columns: str) -> Line:
    columns = {name: escape_unprintable(text) for name, text in columns.items()}
    return Line(escape_unprintable(result.model), escape_unprintable(result.family), **columns)


def _relative(name: str, head: str) -> str:
    return name.removeprefix(head) if head and name.startswith(f"{head}.") else name


def _evidence(head: SwappedHead) -> Iterator[str]:
    """Yield the operation that sets the class dimension, and the sentences that other columns do not imply."""
    first, *more = head.evidence
    start, _, operation = first.rpartition(" in ")
    yield operation if start.startswith("dimension ") else first
    implied = (f"{operation} reads {head.in_features} features computed from the input", _ONLY_TO_OUTPUT)
    yield from (sentence for sentence in more if sentence not in implied)


def _steps(steps: Iterable[PathStep]) -> str:
    return " > ".join(f"{step.name} ({step.type})" if step.type else step.name for step in steps)


def differences(atlas: Atlas, found: Lines) -> list[str]:
    """Return the lines that changed, `-` in front of the old and `+` in front of the new ones."""
    return [line for name, lines in found.items() for line in _changed(atlas.lines.get(name, ()), lines)]


def _changed(old: Sequence[Line], new: Sequence[Line]) -> Iterator[str]:
    if not any(line.run for line in new):
        old = [line._replace(run="") for line in old]  # numeric results do not say how the abstract run went
    yield from (f"- {_readable(line)}" for line in old if line not in new)
    yield from (f"+ {_readable(line)}" for line in new if line not in old)


def _readable(line: Line) -> str:
    return " | ".join(filter(None, line))


def found_by(results: Iterable[Result]) -> dict[str, list[Line]]:
    """Return the lines of all architectures of a journal, which has the heads once per architecture.

    Raises:
        AtlasError: it is not known where the heads of some models are.
    """
    chosen: dict[str, Result] = {}
    for result in results:
        if result.anatomy is not None or getattr(chosen.get(result.model), "anatomy", None) is None:
            chosen[result.model] = result
    lines: list[Line] = []
    unknown = []
    for _, result in sorted(chosen.items()):
        try:
            lines += lines_of(result)
        except AtlasError as error:
            unknown.append(str(error))
    if unknown:
        raise AtlasError(f"no heads are known for {len(unknown)} models: {join_first(unknown)}")
    return by_architecture(lines)


def accept(zoo: Zoo, names: Sequence[str], report: Path, flags: Sequence[str], path: Path) -> list[str]:
    """Run models, write their lines, and return the lines that changed.

    Raises:
        AtlasError: a model crashed, or some models were selected and the file has no other lines of these versions.
    """
    whole = len(names) == len(zoo)
    old = Atlas.read(path) if path.exists() or not whole else Atlas({}, {})
    if not whole and (other := old.other_version(zoo)):
        raise AtlasError(f"{path.name}: {other}. Run the whole zoo")
    run_models(zoo.name, names, CHECK, report, ["--headswap-evidence=abstract", *flags])
    found = found_by(read_journal(report)[1])
    if missing := [name for name in names if escape_unprintable(name) not in found]:
        raise AtlasError(f"{path.name}: the run is not complete: run the same command again ({join_first(missing)})")
    lines = found if whole else {**old.lines, **found}
    Atlas(versions_of(zoo), lines).write(path)
    gone = [f"- {_readable(line)}" for name in old.lines.keys() - lines.keys() for line in old.lines[name]]
    return [*sorted(gone), *differences(old, found)]


def main() -> int:
    """Run the zoos, write their files and print what changed. Return 1 if a file could not be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoos", nargs="*", metavar="ZOO", help="zoos (default: all public ones)")
    parser.add_argument("--models", default="", help="globs of the models whose lines are written (default: all)")
    parser.add_argument("--report", type=Path, default=Path("headswap-report/atlas"), help="folder of the results")
    arguments, flags = parser.parse_known_args()
    failed = 0
    for name in arguments.zoos or ZOOS:
        try:
            zoo = load_zoo(name)
            names = select_models(zoo, arguments.models)
            with TemporaryDirectory() as scratch:
                report = Path(scratch) if arguments.models else arguments.report / name
                changed = accept(zoo, names, report, flags, FOLDER / f"{name}.tsv")
        except (AtlasError, ZooError) as error:
            print(error, file=sys.stderr)
            failed = 1
        else:
            print(*changed, f"{FOLDER.name}/{name}.tsv: {len(changed)} lines changed", sep="\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
