"""Learn which tests reach each mutant, and run them on it."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from conformance.mutation.forks import TIMED_OUT, Fork, Job, append, read, run_jobs
from conformance.mutation.mutants import Mutant, marked

CAUGHT = ("killed", "timed out")
"""Outcomes of mutants that the tests notice. The others are `survived` and `not covered`."""


class Campaign:
    """The mutants of one checkout, and the tests that reach them.

    Args:
        root: the checkout; pytest runs there.
        folder: where all results go.
        mutants: the mutants, of all shards.
        tests: the test files.
        workers: number of processes at a time.
    """

    def __init__(self, root: Path, folder: Path, mutants: list[Mutant], tests: Iterable[Path], workers: int) -> None:
        self._root, self._folder, self._mutants, self._workers = root, folder, mutants, workers
        self._tests = sorted(tests)
        self._reach = folder / "reach"
        self._reach.mkdir(parents=True, exist_ok=True)
        self._files = sorted({mutant.file for mutant in mutants})
        self._digest = hashlib.sha256(" ".join(mutant.key for mutant in mutants).encode()).hexdigest()[:16]

    def learn(self) -> None:
        """Run each test file once, and keep the mutants that each test reaches. Files that did not change are kept."""
        names = [mutant.key for mutant in self._mutants] + self._files
        marks = {name: index for index, name in enumerate(names)}
        changed = []
        for file, group in groupby(sorted(self._mutants, key=lambda m: m.file), key=lambda m: m.file):
            mutants = list(group)
            code = marked(self._root, file, [(marks[m.key], m) for m in mutants], marks[file])
            changed.append((mutants[0].module, code))

        def job(path: Path) -> Job:
            name = self._name(path)

            def start() -> Fork:
                fork = Fork(self._folder / "runs" / name, changed, len(names))
                return fork.start(self._root, [str(path)], 1800)

            def finish(fork: Fork, status: int) -> None:
                if status not in (0, 1, 5):  # passed, failed, nothing to run
                    raise RuntimeError(f"{path} ended with status {status}: see {fork.output}")
                tests = [{**line, "hits": [names[hit] for hit in line["hits"]]} for line in fork.tests()]
                kept = {"stamp": self._stamp(path), "tests": tests}
                (self._reach / f"{name}.json").write_text(json.dumps(kept), "utf-8")
                failed = [line["test"] for line in tests if line["failed"]]
                print(f"{name}: {len(tests)} tests, {fork.seconds:.0f} s, status {status}", *failed, flush=True)
                if not failed:
                    fork.remove()

            return start, finish

        run_jobs([job(path) for path in self._tests if self._reached(path) is None], self._workers)

    def _name(self, path: Path) -> str:
        return ".".join(path.relative_to(self._root).with_suffix("").parts)

    def _stamp(self, path: Path) -> str:
        return f"{path.stat().st_mtime} {self._digest}"

    def _reached(self, path: Path) -> list[dict[str, Any]] | None:
        """Return the tests of a file with the mutants that each reaches; None if they are not known."""
        file = self._reach / f"{self._name(path)}.json"
        kept: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {"stamp": ""}
        return kept["tests"] if kept["stamp"] == self._stamp(path) else None

    def _selected(self, seconds: float) -> dict[str, list[dict[str, Any]]]:
        """Return the tests that reach each mutant: the fastest of each file first, for at most so many seconds."""
        reaching: dict[str, list[tuple[int, float, dict[str, Any]]]] = defaultdict(list)
        for path in self._tests:
            rank: dict[str, int] = defaultdict(int)
            for line in sorted(self._reached(path) or [], key=lambda line: line["seconds"]):
                for hit in line["hits"] if not line["failed"] else ():
                    reaching[hit].append((rank[hit], line["seconds"], line))
                    rank[hit] += 1
        selected = {}
        for mutant in self._mutants:
            chosen: list[dict[str, Any]] = []
            left = seconds
            # the import of a module has no mark: every test that calls one of its functions depends on it
            for _, cost, line in sorted(
                reaching[mutant.key if mutant.in_function else mutant.file], key=lambda item: item[:2]
            ):
                if not chosen or cost <= left:
                    chosen.append(line)
                    left -= cost
            selected[mutant.key] = sorted(chosen, key=lambda line: line["seconds"])
        return selected

    def run(self, mutants: Iterable[Mutant], journal: Path, seconds: float) -> None:
        """Run the tests of each mutant, at most so many seconds of them, and append the results to the journal."""
        selected = self._selected(seconds)

        def record(mutant: Mutant, outcome: str, **details: Any) -> None:
            fields = {name: getattr(mutant, name) for name in ("key", "file", "line", "kind", "change")}
            append(journal, {**fields, "outcome": outcome, **details})
            if outcome not in CAUGHT:
                print(f"{outcome}: {mutant.key} {mutant.file}:{mutant.line}: {mutant.change}", flush=True)

        def job(mutant: Mutant) -> Job:
            tests = selected[mutant.key]

            def start() -> Fork:
                fork = Fork(self._folder / "runs" / mutant.key, [(mutant.module, mutant.code(self._root))])
                limit = 30 + 5 * sum(line["seconds"] for line in tests)
                return fork.start(self._root, ["-x", "--tb=line", *(line["test"] for line in tests)], limit)

            def finish(fork: Fork, status: int) -> None:
                failed = [line["test"] for line in fork.tests() if line["failed"]]
                outcome = {0: "survived", TIMED_OUT: "timed out"}.get(status, "killed")
                by = failed[0] if failed else f"exit status {status}" if status else ""
                record(mutant, outcome, by=by, tests=len(tests), seconds=round(fork.seconds, 1))
                if failed or not status:
                    fork.remove()

            return start, finish

        mutants = list(mutants)
        for mutant in mutants:
            if not selected[mutant.key]:
                record(mutant, "not covered")
        run_jobs([job(mutant) for mutant in mutants if selected[mutant.key]], self._workers)


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the last result of each mutant."""
    return {line["key"]: line for journal in sorted(folder.glob("mutants*.jsonl")) for line in read(journal)}
