"""`conformance/CUDA.md` says what the receipt of a run on a GPU says, or that there has been none."""

from __future__ import annotations

import re
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from conformance import cuda_run
from conformance.cuda_receipt import (
    DTYPES,
    RECEIPT,
    ROOT,
    TABLE,
    MarkedTests,
    Receipt,
    count,
    out_of_date,
    outcomes,
    problems,
    read_receipt,
    render,
    tree_digest,
)
from pytest_headswap import load_zoo
from pytest_headswap.results import Result

UNSUPPORTED = "cuda:0 does not support torch.bfloat16; the model as built does not run in torch.float16"


def result(model: str = "a", check: str = "device_placement", outcome: str = "passed", **more: str) -> Result:
    return Result.from_json(
        {"zoo": "timm", "model": model, "check": check, "outcome": outcome, "evidence": "cuda:0", **more}
    )


SOUND = [result("a"), result("a", "frozen_backbone"), result("b", message=UNSUPPORTED)]
COMPLETE = Receipt(
    commit="c0ffee",
    tree=tree_digest(),
    date="2026-11-28",
    seconds=600,
    device="cuda",
    devices=("cuda:0 (NVIDIA H200)",),
    versions={"torch": "2.15.0"},
    tests=MarkedTests(passed=90, skipped=2),
    models={"timm": (2, 1371)},
    counts=count(SOUND, "cuda"),
)


def write(receipt: Receipt | None, table: str | None, folder: Path) -> None:
    if receipt is not None:
        (folder / RECEIPT).write_bytes(msgspec.json.encode(receipt))
    if table is not None:
        (folder / TABLE).write_text(table, encoding="utf-8")


def test_the_table_of_this_project_says_what_its_receipt_says() -> None:
    wrong, remark = out_of_date(ROOT / "conformance")
    print(remark)
    assert wrong == []


def test_without_a_receipt_the_table_says_that_nothing_ran_and_has_no_figures() -> None:
    assert "have not run on a GPU" in render(None)
    assert re.search(r"\d", render(None)) is None


@pytest.mark.parametrize(
    ("receipt", "table", "wrong"),
    [
        (None, render(None), ""),
        (None, None, "reports a run, but there is no receipt"),
        (None, render(COMPLETE), "reports a run, but there is no receipt"),
        (COMPLETE, render(COMPLETE), ""),
        (COMPLETE, None, f"does not say what {RECEIPT} says"),
        (COMPLETE, render(None), f"does not say what {RECEIPT} says"),
        (COMPLETE, render(COMPLETE).replace("90 passed", "91 passed"), f"does not say what {RECEIPT} says"),
        (replace(COMPLETE, date="2026-11-29"), render(COMPLETE), f"does not say what {RECEIPT} says"),
    ],
)
def test_a_table_that_does_not_come_from_the_receipt_is_found(
    receipt: Receipt | None, table: str | None, wrong: str, tmp_path: Path
) -> None:
    write(receipt, table, tmp_path)
    assert read_receipt(tmp_path) == receipt
    found, remark = out_of_date(tmp_path)
    assert (bool(found), remark) == (bool(wrong), "")
    assert wrong in "".join(found)


def test_a_receipt_of_another_tree_is_remarked_and_not_wrong(tmp_path: Path) -> None:
    older = replace(COMPLETE, tree="0" * 64)
    write(older, render(older), tmp_path)
    wrong, remark = out_of_date(tmp_path)
    assert wrong == []
    assert "is from 2026-11-28, and the package has changed since" in remark


def test_the_digest_depends_on_names_and_contents_of_the_package_only(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1", encoding="utf-8")
    before = tree_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/a.pyc").write_text("1", encoding="utf-8")
    assert tree_digest(tmp_path) == before
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    renamed = tree_digest(tmp_path)
    (tmp_path / "b.py").write_text("2", encoding="utf-8")
    assert len({before, renamed, tree_digest(tmp_path)}) == 3


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (result(), ["passed", "passed", "passed"]),
        (result(message=UNSUPPORTED), ["passed", "unsupported", "unsupported"]),
        (
            result(message="the model as built does not run in torch.bfloat16, torch.float16"),
            ["passed", "unsupported", "unsupported"],
        ),
        (result(evidence="simulated", message="cuda:0 does not have enough memory"), ["elsewhere"]),
        (result(evidence="numeric", check="frozen_backbone"), ["elsewhere"]),
        (result(check="frozen_backbone"), ["passed"]),
        (result(outcome="skipped", evidence="", reason="no_head"), ["skipped"]),
        (result(outcome="crashed", evidence=""), ["failed"]),
        (result(outcome="xpassed"), ["failed", "not reached", "not reached"]),
        (
            result(outcome="failed", message="after a swap on cuda:0 in its own dtype, the model raises"),
            ["failed", "not reached", "not reached"],
        ),
        (
            result(outcome="failed", message="after a swap on cuda:0 in torch.bfloat16, the model raises"),
            ["passed", "failed", "not reached"],
        ),
        (
            result(outcome="xfailed", message="after a swap in a model on cuda:0 in torch.float16, the head has"),
            ["passed", "passed", "xfailed"],
        ),
        (
            result(outcome="failed", evidence="", message="on meta in torch.bfloat16, the head has fc.weight"),
            ["failed"],
        ),
    ],
)
def test_the_outcome_of_each_dtype_is_read_from_the_result(found: Result, expected: list[str]) -> None:
    assert outcomes(found, "cuda") == dict(zip(DTYPES, expected, strict=False))


def test_the_table_counts_the_models_by_zoo_check_and_dtype() -> None:
    lines = render(COMPLETE).splitlines()
    assert [line for line in lines if line.startswith("| timm")] == [
        "| timm | device_placement | own | 2 | 2 | 0 | 0 | 0 | 0 | 0 | 0 |",
        "| timm | device_placement | bfloat16 | 2 | 1 | 0 | 1 | 0 | 0 | 0 | 0 |",
        "| timm | device_placement | float16 | 2 | 1 | 0 | 1 | 0 | 0 | 0 | 0 |",
        "| timm | frozen_backbone | own | 1 | 1 | 0 | 0 | 0 | 0 | 0 | 0 |",
    ]
    assert "- Verdict: everything that ran works" in lines
    assert "- Device: cuda:0 (NVIDIA H200)" in lines


@pytest.mark.parametrize(
    ("receipt", "problem"),
    [
        (replace(COMPLETE, device="xla"), "the run used xla in the place of cuda"),
        (replace(COMPLETE, devices=()), "no device was there"),
        (replace(COMPLETE, tests=MarkedTests(skipped=90)), "no test with the marker cuda passed"),
        (replace(COMPLETE, tests=MarkedTests(90, 0, ("tests.a::b",))), "1 tests with the marker cuda failed"),
        (
            replace(COMPLETE, counts=count([SOUND[1], SOUND[2]], "cuda")),
            "no model passed device_placement in bfloat16 on the device",
        ),
        (
            replace(COMPLETE, counts=count([SOUND[0]], "cuda")),
            "no model passed frozen_backbone in its own dtype on the device",
        ),
        (replace(COMPLETE, failures=("`timm::a::device_placement` (failed): no",)), "1 results are failures"),
    ],
)
def test_a_run_that_shows_nothing_is_no_success(receipt: Receipt, problem: str) -> None:
    assert problems(COMPLETE) == []
    assert problem in "; ".join(problems(receipt))
    assert problem in render(receipt)


def test_a_longer_run_covers_the_models_of_a_shorter_one_and_each_family_comes_early() -> None:
    zoo = load_zoo("builtin")
    ids = cuda_run.spread([zoo])
    assert sorted(ids) == sorted(f"builtin::{name}" for name in zoo.names)
    families = {zoo[name].family for name in zoo.names}
    assert {zoo[name.partition("::")[2]].family for name in ids[: len(families)]} == families
    assert cuda_run.spread([zoo]) == ids


def test_another_device_does_not_write_the_table_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cuda_run.main(["--device=xla"])
    assert "--device=xla needs --output" in capsys.readouterr().err


def test_a_run_without_a_device_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_run, "_run", lambda *_: None)
    assert cuda_run.main(["60", "--zoos=builtin", f"--output={tmp_path}"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_interrupted_when_the_time_is_up_and_can_write_its_results(tmp_path: Path) -> None:
    file = tmp_path / "written"
    code = "import pathlib, sys, time\ntry:\n    time.sleep(300)\nexcept KeyboardInterrupt:\n    "
    began = time.monotonic()
    cuda_run._run([sys.executable, "-c", f"{code}pathlib.Path({str(file)!r}).touch()"], began + 1)
    assert file.exists()


@pytest.mark.slow
def test_the_script_runs_the_tests_and_models_and_writes_receipt_and_table(tmp_path: Path) -> None:
    """A simulated device stands in for a GPU, so the verdict says what is missing."""
    sample = tmp_path / "test_sample.py"
    sample.write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): assert 0\ndef test_no(): pytest.skip()\n",
        encoding="utf-8",
    )
    tests = shlex.join(["-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(sample)])
    flags = ["--device=simulated", "--zoos=builtin", "--models=3", "--workers=2", f"--output={tmp_path}"]
    assert cuda_run.main(["300", *flags, f"--tests={tests}", "--commit=c0ffee"]) == 1
    receipt = read_receipt(tmp_path)
    assert receipt is not None
    assert (receipt.commit, receipt.tree, receipt.device) == ("c0ffee", tree_digest(), "simulated")
    assert receipt.tests == MarkedTests(1, 1, ("test_sample::test_bad",))
    assert receipt.models == {"builtin": (3, len(load_zoo("builtin").names))}
    assert receipt.counts == {
        "builtin device_placement own": {"elsewhere": 3},
        "builtin frozen_backbone own": {"elsewhere": 3},
    }
    assert out_of_date(tmp_path) == ([], "")
    text = (tmp_path / TABLE).read_text(encoding="utf-8")
    assert "the run used simulated in the place of cuda; no device was there; 1 tests with the marker cuda" in text
    assert "- test test_sample::test_bad" in text
    (tmp_path / TABLE).unlink()
    assert cuda_run.main(["--render", f"--output={tmp_path}"]) == 1
    assert (tmp_path / TABLE).read_text(encoding="utf-8") == text
