"""Journals for tests of reports: single results, hostile names, and a run over all of timm."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from pytest_headswap.head import PathStep
from pytest_headswap.plugin.planning.costs import FOLDER
from pytest_headswap.results import JournalHeader, JournalWriter, Outcome, Result
from pytest_headswap.results.head_record import SwappedHead, SwappedHeads

CHECKS = (
    *("output_shape", "native_parity", "metadata", "state_dict"),
    *("gradient_flow", "frozen_backbone", "round_trip", "device_placement"),
)
WAY = (
    PathStep("operation", "add", "", (2, 512, 7, 7)),
    PathStep("layer", "layer4.1.act2", "ReLU", (2, 512, 7, 7)),
    PathStep("layer", "global_pool.pool", "AdaptiveAvgPool2d", (2, 512, 1, 1)),
    PathStep("head", "fc", "Linear", (2, 1000)),
    PathStep("activation", "softmax", "", (2, 1000)),
    PathStep("output", "output", "", (2, 1000)),
)
ANATOMY = SwappedHeads(
    (
        SwappedHead(
            *("fc", "linear", 512, 7, 1, "main", "softmax"),
            aliases=("classifier",),
            tensors=("fc.weight", "fc.bias"),
            outputs=("output",),
            evidence=("dimension 1 of output is set by fc.weight", "no other layer consumes it"),
            path_to_output=WAY,
            old_num_classes=1000,
        ),
    ),
    ("something to know",),
)

HARM = (
    "<script>window.harmed = 1</script>",
    '"><img src=x onerror="window.harmed = 1">',
    "</script><script>window.harmed = 1</script>",
    "javascript:window.harmed=1//",
    "'-alert(1)-'{{7*7}}{% raw %}${window.harmed = 1}",
    "<!--<script>",
    "../../../etc/passwd",
    "..\\..\\windows\\system32",
    "/absolute/name",
    ".",
    "..",
    "CON",
    "a b\tc\nd\u2028e\x00f\x1b[31mg",
    "\u202etxt.exe",
    "\ud800 alone",
    "模型-ñ-🙂",
    "Same",
    "same",
    "x" * 300,
    "|`*_[a](javascript:1)_*`|",
)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a journal and returns its folder."""

    def make(results: Iterable[Result], name: str = "run", header: JournalHeader | None = None) -> Path:
        return write_journal(tmp_path / name, results, header)

    return make


def write_journal(folder: Path, results: Iterable[Result], header: JournalHeader | None = None) -> Path:
    """Write a journal with these results, and return its folder."""
    header = header or JournalHeader({"torch": "2.14.1", "timm": "1.0.31"}, {"checks": list(CHECKS), "num_classes": 7})
    with JournalWriter(folder, header) as writer:
        for result in results:
            writer.write(result)
    return folder


def result(model: str, check: str = "output_shape", outcome: Outcome = "passed", **more: object) -> Result:
    """Return a result like those of a run."""
    fields = {
        "zoo": "timm",
        "evidence": "numeric" if outcome in ("passed", "failed") else "",
        "repro": f"pytest --headswap-zoo=timm --headswap-models='{model}' --headswap-checks={check}",
        "seconds": 0.25,
        "peak_memory_mb": 1234.5,
        "family": "resnet",
        "nodeid": f"timm::{model}::{check}",
        **more,
    }
    return Result(model=model, check=check, outcome=outcome, **fields)  # type: ignore[arg-type]


def harmful() -> list[Result]:
    """Return results with hostile text in every field."""
    found = []
    for text in HARM:
        step = PathStep("layer", text, text, (2, 7))
        head = SwappedHead(
            text, text, 1, 3, 1, text, text, (text,), (text,), (text,), (text,), (step,), old_num_classes=2
        )
        texts = {"message": text, "repro": text, "family": text, "reason": text, "evidence": text}
        texts |= {"nodeid": text, "version": ""}
        found.append(result(text, "output_shape", "failed", anatomy=SwappedHeads((head,), (text,)), **texts))
        found.append(result(text, text, "skipped", **{**texts, "zoo": text}))
    return found


def whole_timm() -> list[Result]:
    """Return the results of a run over all timm models: most pass, and every other outcome occurs."""
    chance = random.Random(1)
    costs = json.loads((FOLDER / "timm.json").read_text(encoding="utf-8"))["models"]
    found: list[Result] = []
    for name, (seconds, peak) in costs.items():
        family = name.partition("_")[0].rstrip("0123456789") or name
        fate = chance.choices(("well", "one", "error", "crashed", "none"), (940, 30, 12, 4, 14))[0]
        broken = chance.choice(CHECKS)
        for number, check in enumerate(CHECKS):
            evidence = {"native_parity": "abstract", "device_placement": "simulated"}.get(check, "numeric")
            outcome: Outcome = "passed"
            message = reason = ""
            if fate == "one" and check == broken:
                outcome = chance.choice(("failed", "failed", "xfailed", "xpassed", "timeout"))
                message = f"the state_dict differs from that of {name} built with 7 classes; missing: head.weight"
            elif fate in ("error", "crashed"):
                outcome, evidence = ("error" if fate == "error" else "crashed"), ""
                message, reason = f"forward of {name} raised RuntimeError on (2, 3, 64, 64)", "forward_failed"
            elif fate == "none":
                outcome, evidence, reason = "skipped", "", "output_is_backbone"
                message = "[output_is_backbone] other layers consume the width of the outputs"
            more = {"evidence": evidence, "message": message, "reason": reason, "family": family}
            more |= {"seconds": round(seconds * (0.5 if number == 0 else 0.07), 3), "peak_memory_mb": peak}
            anatomy = ANATOMY if number == 0 and fate in ("well", "one") else None
            found.append(result(name, check, outcome, anatomy=anatomy, **more))
    return found


@pytest.fixture(scope="session")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a journal of all timm models and its reports, and return their folder."""
    from pytest_headswap.report.write import write_reports

    folder = write_journal(tmp_path_factory.mktemp("timm") / "report", whole_timm())
    write_reports(folder, folder)
    return folder
