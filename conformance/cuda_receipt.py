"""The receipt of a run on a GPU, and `conformance/CUDA.md`, which says what the receipt says and nothing else."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pytest_headswap.report import Result

ROOT = Path(__file__).parents[1]
TABLE, RECEIPT = "CUDA.md", "cuda-receipt.json"
DTYPES = ("own", "torch.bfloat16", "torch.float16")
"""`own` is the dtype in which the zoo builds a model."""

_NAMES = {dtype: dtype.replace("own", "its own dtype").replace("torch.", "") for dtype in DTYPES}

OUTCOMES = ("passed", "xfailed", "unsupported", "elsewhere", "skipped", "not reached", "failed")


@dataclass(frozen=True)
class MarkedTests:
    """The results of the tests with the marker."""

    passed: int = 0
    skipped: int = 0
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Receipt:
    """What a run found, and where.

    Attributes:
        commit: the commit of the project; empty if unknown.
        tree: the digest of the files of the package.
        date: the day of the run.
        seconds: the time limit.
        device: the option of the run, such as `cuda`.
        devices: the devices with their names, such as `cuda:0 (NVIDIA H200)`.
        versions: of Python, torch and the zoos.
        tests: the results of the tests with the marker.
        models: for each zoo, how many models ran and how many it has.
        counts: for each zoo, check and dtype, how many models had which outcome.
        failures: what failed, with its message.
    """

    commit: str
    tree: str
    date: str
    seconds: float
    device: str
    devices: tuple[str, ...]
    versions: Mapping[str, str]
    tests: MarkedTests
    models: Mapping[str, tuple[int, int]]
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    failures: tuple[str, ...] = ()


def outcomes(result: Result, device: str) -> dict[str, str]:
    """Return the outcome of a result for each dtype in which the check ran or should have run.

    `unsupported`: the device or the model as built does not run in the dtype. `elsewhere`: the check passed, but not on
    the device, such as in the simulation. `not reached`: an earlier dtype failed.
    """
    outcome: str = result.outcome if result.outcome in OUTCOMES else "failed"
    if not result.evidence.startswith(f"{device.partition(':')[0]}:"):
        return {"own": "elsewhere" if outcome == "passed" else outcome}
    if result.check != "device_placement" or outcome == "skipped":
        return {"own": outcome}
    if outcome == "passed":
        noted = re.findall(r"does not (?:support|run in) (torch\.\w+(?:, torch\.\w+)*)", result.message)
        unsupported = {dtype for dtypes in noted for dtype in dtypes.split(", ")}
        return {dtype: "unsupported" if dtype in unsupported else "passed" for dtype in DTYPES}
    failed = next((place for place, dtype in enumerate(DTYPES) if f" in {dtype}" in result.message), 0)
    return {
        dtype: "passed" if place < failed else outcome if place == failed else "not reached"
        for place, dtype in enumerate(DTYPES)
    }


def count(results: Iterable[Result], device: str) -> dict[str, dict[str, int]]:
    """Return how many models had which outcome, by zoo, check and dtype."""
    counts: dict[str, Counter[str]] = {}
    for result in results:
        for dtype, outcome in outcomes(result, device).items():
            counts.setdefault(f"{result.zoo} {result.check} {dtype}", Counter())[outcome] += 1
    return {key: dict(counts[key]) for key in sorted(counts, key=lambda key: (*key.split()[:2], _place(key)))}


def _place(key: str) -> int:
    return DTYPES.index(key.split()[2])


def problems(receipt: Receipt) -> list[str]:
    """Return the reasons why a run does not show that the package works on CUDA; empty if it does."""
    found = (
        [] if receipt.device.partition(":")[0] == "cuda" else [f"the run used {receipt.device} in the place of cuda"]
    )
    if not receipt.devices:
        found.append("no device was there")
    if not receipt.tests.passed:
        found.append("no test with the marker cuda passed")
    if receipt.tests.failed:
        found.append(f"{len(receipt.tests.failed)} tests with the marker cuda failed")
    rows = [*(("device_placement", dtype) for dtype in DTYPES), ("frozen_backbone", "own")]
    passed = {tuple(key.split()[1:]) for key, counts in receipt.counts.items() if counts.get("passed")}
    found += [
        f"no model passed {check} in {_NAMES[dtype]} on the device"
        for check, dtype in rows
        if (check, dtype) not in passed
    ]
    if receipt.failures:
        found.append(f"{len(receipt.failures)} results are failures that nothing explains")
    return found


def render(receipt: Receipt | None) -> str:
    """Return the text of `CUDA.md`."""
    if receipt is None:
        return (
            "# CUDA\n\nThe checks have not run on a GPU: there is no receipt of a run. On a machine with a GPU,\n"
            f"`conformance/cuda.sh` makes one, `conformance/{RECEIPT}`, and writes this file from it.\n"
        )
    wrong = problems(receipt)
    tests = receipt.tests
    lines = [
        "# CUDA",
        "",
        f"Written by `conformance/cuda.sh` from `{RECEIPT}`: {receipt.seconds:g} seconds on {receipt.date}.",
        "",
        f"- Verdict: {'; '.join(wrong) if wrong else 'everything that ran works'}",
        f"- Device: {', '.join(receipt.devices) or 'none'}",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in receipt.versions.items())}",
        f"- Commit: {receipt.commit or 'unknown'}; digest of the package: {receipt.tree[:16]}",
        f"- Tests with the marker `cuda`: {tests.passed} passed, {len(tests.failed)} failed, {tests.skipped} skipped",
        f"- Models: {', '.join(f'{ran} of {there} in {zoo}' for zoo, (ran, there) in receipt.models.items())}",
        "",
        "`own` is the dtype in which the zoo builds a model: float32, with few exceptions.",
        "",
        "- `unsupported`: the device or the model as built does not run in the dtype.",
        "- `elsewhere`: the check passed, but not on the device, for example because the model needs too much memory.",
        "- `not reached`: an earlier dtype failed.",
        "",
        f"| zoo | check | dtype | models | {' | '.join(OUTCOMES)} |",
        f"|---|---|---|{'---:|' * (len(OUTCOMES) + 1)}",
    ]
    for key, counts in receipt.counts.items():
        numbers = [sum(counts.values()), *(counts.get(outcome, 0) for outcome in OUTCOMES)]
        lines.append(f"| {' | '.join(key.replace('torch.', '').split())} | {' | '.join(map(str, numbers))} |")
    failures = [*(f"test {name}" for name in tests.failed), *receipt.failures]
    return "\n".join([*lines, "", "## Failures", "", *([f"- {text}" for text in failures] or ["None."])]) + "\n"


def tree_digest(root: Path = ROOT / "pytest_headswap") -> str:
    """Return a digest of the names and contents of the package's files."""
    found = hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        found.update(f"{file.relative_to(root).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def read_receipt(folder: Path) -> Receipt | None:
    """Return the receipt in a folder, or None."""
    file = folder / RECEIPT
    return msgspec.json.decode(file.read_bytes(), type=Receipt) if file.exists() else None


def out_of_date(folder: Path) -> tuple[list[str], str]:
    """Return what contradicts the receipt, and a remark if the package has changed since the run."""
    receipt, table = read_receipt(folder), folder / TABLE
    wrong = []
    if not table.exists() or table.read_text(encoding="utf-8") != render(receipt):
        there = f"does not say what {RECEIPT} says" if receipt else "reports a run, but there is no receipt"
        wrong.append(f"{TABLE} {there}: write it again with python -m conformance.cuda_run --render")
    if receipt is None or receipt.tree == tree_digest():
        return wrong, ""
    return wrong, f"{RECEIPT} is from {receipt.date}, and the package has changed since: run conformance/cuda.sh again"
