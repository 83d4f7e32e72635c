"""Change the package in small ways, run the tests that reach each change, and write `conformance/MUTATION.md`.

    python -m conformance.mutation FOLDER --workers 2

The tests have to fail for each mutant. A mutant that no test notices has survived; `survivors.toml` explains those that
need no test. The checkout is never written to: test processes import the mutant through `hook/sitecustomize.py`.

FOLDER keeps all results, and a second call continues. First, each test file runs on a package that marks the statements
with mutants, which tells the tests that reach them. Then each mutant runs with these tests, in a fork of this process.
`--shard 1/4` runs a fourth of the mutants. To merge shards, copy their `mutants*.jsonl` into one folder and run
`--table`. `--retry` runs the survivors again, for example after new tests.

mutmut was not used: it changes no decorated function and no module-level code, it does not see what child
processes reach, and its wrappers add frames to every function. cosmic-ray starts a process and imports torch for each
mutant, and writes to the checkout.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from conformance.mutation.campaign import CAUGHT, Campaign, results
from conformance.mutation.forks import HOOK
from conformance.mutation.mutants import sample
from conformance.mutation.table import write_table

ROOT = Path(__file__).parents[2]
FOLDERS = ("engine", "case", "checks", "isolation", "results")
TESTS = (*FOLDERS, "zoo", "expectations", "harness", "plugin", "cli")
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "hypothesis", "numpy")
"""Imported before the forks, since each takes up to two seconds."""


def main() -> int:
    """Run the mutants and write the table. Return 1 if a survivor is not explained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=_positive, default=200, help="about how many mutants (default: 200)")
    parser.add_argument("--workers", type=_positive, default=1, help="processes at a time (default: 1)")
    parser.add_argument("--shard", type=_shard, default="1/1", help="the part to run, such as 1/4")
    parser.add_argument("--seconds", type=float, default=15, help="of tests for a mutant, at most (default: 15)")
    parser.add_argument("--retry", action="store_true", help="run mutants again that no test noticed")
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    mutants = sample(ROOT, [f"pytest_headswap/{name}" for name in FOLDERS], arguments.count)
    if not arguments.table:
        for name in LIBRARIES:
            importlib.import_module(name)
        tests = [path for name in TESTS for path in (ROOT / "tests" / name).glob("test_*.py")]
        campaign = Campaign(ROOT, folder, mutants, tests, arguments.workers)
        campaign.learn()
        shard, shards = arguments.shard
        known = {key for key, line in results(folder).items() if line["outcome"] in CAUGHT or not arguments.retry}
        waiting = [mutant for mutant in mutants[shard - 1 :: shards] if mutant.key not in known]
        campaign.run(waiting, folder / f"mutants-{shard}-of-{shards}.jsonl", arguments.seconds)
    found = results(folder)
    return write_table([found[mutant.key] for mutant in mutants if mutant.key in found], len(mutants))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    shard, _, shards = text.partition("/")
    if not (shard.isdecimal() and shards.isdecimal() and 1 <= int(shard) <= int(shards)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 1/4")
    return int(shard), int(shards)


if __name__ == "__main__":
    if str(HOOK) not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        # Python imports the hook at its start, before pytest
        paths = [str(HOOK), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        os.execv(sys.executable, sys.orig_argv)
    sys.exit(main())
