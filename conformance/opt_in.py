"""Run opt-in checks over every n-th model of a zoo, and write `conformance/OPT_IN.md`.

    python -m conformance.opt_in timm:9 torchvision:4 transformers:6 --checks=amp,export --max-parameters=30e6

`timm:9` takes every 9th model of the zoo, `timm:9:3` begins with the fourth model. The models run as in
`pytest --headswap-zoo`, each in a child process. `conformance/<zoo>.toml` lists the expected results other than passes.
The report folder keeps the results: an interrupted run goes on, and the table covers all runs of the folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from conformance.sampled_models import Sample, origin, sample
from pytest_headswap._check_names import OPT_IN_CHECK_NAMES
from pytest_headswap.report import Result, read_journal

HERE = Path(__file__).parent
TABLE = HERE / "OPT_IN.md"
FAILURES = ("failed", "error", "crashed", "timeout")
"""Outcomes that somebody has to look into."""


def run(item: Sample, checks: str, max_parameters: float, folder: Path, flags: Sequence[str]) -> None:
    """Run the checks over the models. The folder then has the results."""
    names = ",".join(spec.name for spec in item.specs(max_parameters))
    command = [sys.executable, "-m", "pytest", "-q", f"--headswap-zoo={item.zoo.name}", f"--headswap-models={names}"]
    more = [f"--headswap-checks={checks}", f"--headswap-expectations={HERE}", f"--headswap-report={folder}"]
    subprocess.run([*command, *more, "--headswap-resume", *flags], check=False)


def write_table(results: Sequence[Result], where_from: Sequence[str], path: Path) -> None:
    """Write the outcomes by zoo and check, and what did not pass with its reason."""
    lines = [
        "# Opt-in checks",
        "",
        *where_from,
        "",
        "| zoo | check | models | passed | expected failures | skipped | failed |",
    ]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    counts: dict[tuple[str, str], Counter[str]] = {}
    for result in results:
        counts.setdefault((result.zoo, result.check), Counter())[result.outcome] += 1
    for (zoo, check), found in sorted(counts.items(), key=lambda item: (item[0][0], _position(item[0][1]))):
        failed = sum(found[outcome] for outcome in FAILURES)
        numbers = (found.total(), found["passed"], found["xfailed"], found["skipped"], failed)
        lines.append(f"| {zoo} | {check} | {' | '.join(map(str, numbers))} |")
    alike: dict[tuple[str, str, str, str], list[str]] = {}
    for result in sorted(results, key=lambda result: (result.zoo, _position(result.check), result.model)):
        if result.outcome != "passed":
            message = " ".join(result.message.split()).replace(result.model, "MODEL")
            alike.setdefault((result.zoo, result.check, result.outcome, message), []).append(f"`{result.model}`")
    details = [
        f"- {zoo} {check} ({outcome}) {', '.join(models)}: {message}"
        for (zoo, check, outcome, message), models in alike.items()
    ]
    path.write_text("\n".join([*lines, "", "## Details", "", *(details or ["None."])]) + "\n", encoding="utf-8")


def _position(check: str) -> int:
    return OPT_IN_CHECK_NAMES.index(check)


def main() -> int:
    """Run the zoos and write the table. Return 1 if a result is neither a pass nor expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoos", nargs="+", type=sample, metavar="ZOO[:STEP[:START]]")
    parser.add_argument(
        "--checks", default=",".join(OPT_IN_CHECK_NAMES), help="the checks (default: all opt-in checks)"
    )
    parser.add_argument("--max-parameters", type=float, default=30e6, help="leave larger models out (default: 30e6)")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for all checks of a model (default: 600)")
    parser.add_argument("--output", type=Path, default=TABLE, help="the file (default: conformance/OPT_IN.md)")
    parser.add_argument("--report", type=Path, default=Path("headswap-opt-in"), help="folder of the results")
    arguments = parser.parse_args()
    for item in arguments.zoos:
        folder = arguments.report / f"{item.zoo.name}-{arguments.checks}"
        run(item, arguments.checks, arguments.max_parameters, folder, [f"--headswap-timeout={arguments.timeout}"])
    found = [
        result for file in sorted(arguments.report.glob("*/results.jsonl")) for result in read_journal(file.parent)[1]
    ]
    results = list({(result.zoo, result.model, result.check): result for result in found}.values())
    flags = [f"--checks={arguments.checks}", f"--max-parameters={arguments.max_parameters:g}"]
    write_table(results, origin("opt_in", arguments.zoos, *flags), arguments.output)
    print(arguments.output)
    return int(any(result.outcome in FAILURES for result in results))


if __name__ == "__main__":
    sys.exit(main())
