"""Run what shows within minutes that the package works on a GPU, and write `conformance/CUDA.md` with its receipt.

    conformance/cuda.sh [SECONDS]

First come the tests with the marker `cuda`, then `device_placement` and `frozen_backbone` over the public zoos, until
the time is up. The order of the models spreads over zoos and families and is the same on every machine, so a longer run
covers the models of a shorter one. Options that are not listed here go to pytest.

`--render` only writes the table again from the receipt.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import msgspec

from conformance.cuda_receipt import (
    RECEIPT,
    ROOT,
    TABLE,
    MarkedTests,
    Receipt,
    count,
    problems,
    read_receipt,
    render,
    tree_digest,
)
from conformance.devices import CHECKS
from pytest_headswap import Zoo, load_zoo
from pytest_headswap.report import JournalHeader, Result, read_journal
from pytest_headswap.results.ids import model_id

_BATCH = 160  # models in one pytest run; starting it takes about as long as 5 of them
_GRACE = 30  # seconds for pytest to end after an interrupt


def spread(zoos: Sequence[Zoo]) -> list[str]:
    """Return the ids of all models: zoos in proportion, families in turn, and in an order that names alone decide."""
    placed = []
    for zoo in zoos:
        families: dict[str, list[str]] = {}
        for name in sorted(zoo.names, key=lambda name: hashlib.sha256(name.encode()).digest()):
            families.setdefault(zoo[name].family, []).append(name)
        rounds = itertools.zip_longest(*families.values())
        names = [name for names in rounds for name in names if name is not None]
        placed += [((place + 0.5) / len(names), zoo.name, name) for place, name in enumerate(names)]
    return [model_id(zoo, name) for _, zoo, name in sorted(placed)]


def _run(command: Sequence[str], until: float) -> None:
    """Run pytest; interrupt it when the time is up. It then ends in good order and keeps its results."""
    print(shlex.join(command[:12]), flush=True)
    # a shell starts what runs in the background with Ctrl-C ignored, and pytest would ignore it too
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=listen)  # noqa: PLW1509
    try:
        process.wait(max(1.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _run_tests(tests: str, folder: Path, until: float) -> MarkedTests:
    file = folder / "tests.xml"
    _run([sys.executable, "-m", "pytest", "-q", *shlex.split(tests), f"--junitxml={file}"], until)
    if not file.exists():
        return MarkedTests(failed=("pytest wrote no results",))
    cases = list(ET.parse(file).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = tuple(f"{case.get('classname')}::{case.get('name')}" for case in failed)
    return MarkedTests(len(cases) - len(failed) - skipped, skipped, names)


def _run_models(
    ids: Sequence[str], options: Sequence[str], folder: Path, until: float
) -> tuple[list[Result], list[JournalHeader]]:
    """Run batches of models until the time is up. Return their results and the headers of the journals."""
    results, headers = [], []
    for start in range(0, len(ids), _BATCH):
        if start and time.monotonic() > until - _GRACE:
            break
        report = folder / f"models-{start}"
        flags = [f"--headswap-checks={','.join(CHECKS)}", f"--headswap-report={report}", *options]
        _run([sys.executable, "-m", "pytest", "-q", *flags, *ids[start : start + _BATCH]], until)
        if not (report / "results.jsonl").exists():  # a mistake in the options, which pytest printed
            break
        header, found = read_journal(report)
        headers.append(header)
        results += found
    return results, headers


def make_receipt(arguments: argparse.Namespace, options: Sequence[str]) -> Receipt:
    """Run the tests and the models, and return what they found."""
    end = time.monotonic() + arguments.seconds - _GRACE
    zoos = [load_zoo(name) for name in arguments.zoos.split(",")]
    flags = [f"--headswap-device={arguments.device}", f"--headswap-expectations={ROOT / 'conformance'}"]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        tests = _run_tests(arguments.tests, folder, min(end, time.monotonic() + arguments.seconds / 2))
        ids = spread(zoos)[: arguments.models]
        results, headers = _run_models(ids, [*flags, f"-n{arguments.workers}", *options], folder, end)
    versions = {name: version for header in headers for name, version in header.versions.items()}
    ran = {zoo.name: len({result.model for result in results if result.zoo == zoo.name}) for zoo in zoos}
    failures = [
        f"`{result.nodeid}` ({result.outcome}): {' '.join(result.full_message.split())[:500]}"
        for result in results
        if result.needs_attention
    ]
    return Receipt(
        commit=arguments.commit or _commit(),
        tree=tree_digest(),
        date=f"{datetime.now(timezone.utc):%Y-%m-%d}",
        seconds=arguments.seconds,
        device=arguments.device,
        devices=tuple(dict.fromkeys(device for header in headers for device in header.devices)),
        versions={"python": sys.version.split()[0], **versions},
        tests=tests,
        models={zoo.name: (ran[zoo.name], len(zoo.names)) for zoo in zoos},
        counts=count(results, arguments.device),
        failures=tuple(failures),
    )


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and write the receipt and the table. Return 1 if the run does not show that the package works on CUDA."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=600, help="the time limit (default: 600)")
    parser.add_argument("--device", default="cuda", help="another device in the place of CUDA, to try the script")
    parser.add_argument("--zoos", default="timm,torchvision,transformers", help="the zoos, separated by commas")
    parser.add_argument("--models", type=int, help="at most this number of models")
    parser.add_argument("--workers", type=int, default=8, help="workers of pytest-xdist (default: 8)")
    parser.add_argument("--tests", default="-m cuda tests", help="arguments of pytest for the tests")
    parser.add_argument("--commit", default="", help="the commit, if the folder is not a Git repository")
    parser.add_argument("--output", type=Path, default=ROOT / "conformance", help="folder of the table and the receipt")
    parser.add_argument("--render", action="store_true", help="only write the table again from the receipt")
    given, options = parser.parse_known_args(arguments)
    if given.device.partition(":")[0] != "cuda" and given.output == ROOT / "conformance":
        parser.error(f"--device={given.device} needs --output: {TABLE} in conformance is about CUDA")
    receipt = read_receipt(given.output) if given.render else make_receipt(given, options)
    if receipt is not None and not given.render:
        if not any(ran for ran, _ in receipt.models.values()):
            print("no model ran, so nothing was written: see what pytest printed", file=sys.stderr)
            return 2
        (given.output / RECEIPT).write_bytes(msgspec.json.format(msgspec.json.encode(receipt), indent=2) + b"\n")
    (given.output / TABLE).write_text(render(receipt), encoding="utf-8")
    wrong = problems(receipt) if receipt else ["there is no receipt"]
    print(given.output / TABLE, *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
