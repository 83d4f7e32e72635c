"""Run opt-in checks over every n-th model of a zoo, and write `conformance/OPT_IN.md`.

    python -m conformance.opt_in timm:9 torchvision:4 transformers:6 --checks=amp,export --max-parameters=30e6

`timm:9` takes every 9th model of the zoo, `timm:9:3` begins with the fourth model. The models run as in
`pytest --headswap-zoo`, each in a child process. `conformance/<zoo>.toml` lists the expected results other than passes.
The report folder keeps the results: an interrupted run goes on, and the table covers all runs of the folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from conformance.sampled_models import FAILURES, origin, outcomes, results_in, run, sample, what_did_not_pass
from pytest_headswap._check_names import OPT_IN_CHECK_NAMES
from pytest_headswap.report import Result

TABLE = Path(__file__).parent / "OPT_IN.md"


def write_table(results: Sequence[Result], where_from: Sequence[str], path: Path) -> None:
    """Write the outcomes by zoo and check, and what did not pass with its reason."""
    lines = ["# Opt-in checks", "", *where_from, "", *outcomes(results, OPT_IN_CHECK_NAMES)]
    details = what_did_not_pass(results, OPT_IN_CHECK_NAMES)
    path.write_text("\n".join([*lines, "", "## Details", "", *details]) + "\n", encoding="utf-8")


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
    results = results_in(arguments.report)
    flags = [f"--checks={arguments.checks}", f"--max-parameters={arguments.max_parameters:g}"]
    write_table(results, origin("opt_in", arguments.zoos, *flags), arguments.output)
    print(arguments.output)
    return int(any(result.outcome in FAILURES for result in results))


if __name__ == "__main__":
    sys.exit(main())
