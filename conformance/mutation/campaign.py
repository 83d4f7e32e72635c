"""Learn which tests reach each mutant, and run them on it."""

from __future__ import annotations

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
FEW_FILES = 4
"""Number of test files that run first on a mutant."""


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
                kept = {"changed": path.stat().st_mtime, "names": names, "tests": tests}
                (self._reach / f"{name}.json").write_text(json.dumps(kept), "utf-8")
                failed = [line["test"] for line in tests if line["failed"]]
                print(f"{name}: {len(tests)} tests, {fork.seconds:.0f} s, status {status}", *failed, flush=True)
                if not failed:
                    fork.remove()

            return start, finish

        run_jobs([job(path) for path in self._tests if self._reached(path) is None], self._workers)

    def _name(self, path: Path) -> str:
        return ".".join(path.relative_to(self._root).with_suffix("").parts)

    def _reached(self, path: Path) -> list[dict[str, Any]] | None:
        """Return the tests of a file with the mutants that each reaches; None if they are not known."""
        file = self._reach / f"{self._name(path)}.json"
        if not file.exists():
            return None
        kept: dict[str, Any] = json.loads(file.read_text("utf-8"))
        is_known = kept["changed"] == path.stat().st_mtime and {m.key for m in self._mutants} <= {*kept["names"]}
        return kept["tests"] if is_known else None

    def _selected(self, seconds: float) -> dict[str, tuple[list[str], list[str]]]:
        """Return the tests to run for each mutant: those of a few files, and more for a mutant that survives these.

        The best file has a name like the module. Next come those with the largest part of tests that reach the mutant.
        The fastest tests of a file come first.
        """
        reaching: dict[str, list[tuple[Path, float, list[dict[str, Any]]]]] = defaultdict(list)
        for path in self._tests:
            passed = [test for test in self._reached(path) or [] if not test["failed"]]
            by_mutant: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for test in sorted(passed, key=lambda test: test["seconds"]):
                for hit in test["hits"]:
                    by_mutant[hit].append(test)
            for hit, tests in by_mutant.items():
                reaching[hit].append((path, len(tests) / len(passed), tests))
        selected = {}
        for mutant in self._mutants:
            # the import of a module has no mark: every test that calls one of its functions depends on it
            files = reaching[mutant.key if mutant.in_function else mutant.file]
            words = {*Path(mutant.file).stem.split("_")}
            files.sort(key=lambda item: (-len(words & {*item[0].stem.split("_")}), -item[1]))
            few = _fastest((tests for _, _, tests in files[:FEW_FILES]), seconds / 3)
            more = _fastest((tests for _, _, tests in files), seconds)
            selected[mutant.key] = few, [test for test in more if test not in few]
        return selected

    def run(self, mutants: Iterable[Mutant], journal: Path, seconds: float) -> None:
        """Run the tests of each mutant, at most so many seconds of them, and append the results to the journal."""
        selected = self._selected(seconds)
        jobs: list[Job] = []

        def record(mutant: Mutant, outcome: str, **details: Any) -> None:
            fields = {name: getattr(mutant, name) for name in ("key", "file", "line", "kind", "change")}
            append(journal, {**fields, "outcome": outcome, **details})
            if outcome not in CAUGHT:
                print(f"{outcome}: {mutant.key} {mutant.file}:{mutant.line}: {mutant.change}", flush=True)

        def job(mutant: Mutant, tests: list[str], more: list[str]) -> Job:
            def start() -> Fork:
                fork = Fork(self._folder / "runs" / mutant.key, [(mutant.module, mutant.code(self._root))])
                return fork.start(self._root, ["-x", "--tb=line", *tests], 60 + 5 * seconds)

            def finish(fork: Fork, status: int) -> None:
                if status == 0 and more:
                    jobs.append(job(mutant, more, []))
                    return
                if status == 5:
                    raise RuntimeError(f"no test ran on {mutant}: see {fork.output}")
                failed = [line["test"] for line in fork.tests() if line["failed"]]
                outcome = {0: "survived", TIMED_OUT: "timed out"}.get(status, "killed")
                by = failed[0] if failed else f"exit status {status}" if status else ""
                record(mutant, outcome, by=by, seconds=round(fork.seconds, 1))
                if failed or not status:
                    fork.remove()

            return start, finish

        for mutant in mutants:
            few, more = selected[mutant.key]
            if few:
                jobs.append(job(mutant, few, more))
            else:
                record(mutant, "not covered")
        run_jobs(jobs, self._workers)


def _fastest(files: Iterable[list[dict[str, Any]]], seconds: float) -> list[str]:
    """Return tests of each file, the fastest first, for at most so many seconds; at least one test."""
    chosen: list[str] = []
    ranked = sorted((rank, test["seconds"], test["test"]) for tests in files for rank, test in enumerate(tests))
    for _, cost, name in ranked:
        if not chosen or cost <= seconds:
            chosen.append(name)
            seconds -= cost
    return sorted(chosen)


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the last result of each mutant."""
    return {line["key"]: line for journal in sorted(folder.glob("mutants*.jsonl")) for line in read(journal)}
