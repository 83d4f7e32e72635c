"""Write `conformance/VERSIONS.md` from runs with several torch versions: `tox run -e matrix`.

    python conformance/version_matrix.py FOLDER

FOLDER contains one folder per tox environment, with the journal of its zoos (`zoos/results.jsonl`) and its test results
(`tests.xml`). The merged HTML report goes to `FOLDER/matrix`.
"""

from __future__ import annotations

import argparse
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from pytest_headswap.cli.main import main as headswap

TABLE = Path(__file__).with_name("VERSIONS.md")
_OUT = "matrix"


def main() -> int:
    """Merge the journals and write the table. Return the exit status of `headswap merge`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=TABLE, help="the file (default: conformance/VERSIONS.md)")
    arguments = parser.parse_args()
    journals = sorted(arguments.folder.glob("*/zoos/results.jsonl"))
    if not journals:
        print(f"{arguments.folder} has no journals: run environments such as py310-torch24-zoo first", file=sys.stderr)
        return 2
    out = arguments.folder / _OUT
    status = headswap(["merge", str(out), *map(str, journals), "--by-version-of=torch"])
    if status == 0:
        lines = [
            "# Versions",
            "",
            "Written by `tox run -e matrix` from the results of environments such as `py310-torch24-pytest8-zoo`.",
            "",
            "## Tests of the project",
            "",
            *tests_table(sorted(arguments.folder.glob("*/tests.xml"))),
            "",
            (out / "summary.md").read_text(encoding="utf-8"),
        ]
        arguments.output.write_text("\n".join(lines), encoding="utf-8")
        print(arguments.output)
    return status


def tests_table(files: list[Path]) -> list[str]:
    """Return the test results of each environment as a Markdown table."""
    lines = ["| environment | tests | failed | skipped | minutes |", "|---|---:|---:|---:|---:|"]
    for file in files:
        suites = list(ET.parse(file).getroot().iter("testsuite"))
        tests, failures, errors, skipped = (
            sum(int(suite.get(key, "0")) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
        )
        minutes = sum(float(suite.get("time", "0")) for suite in suites) / 60
        lines.append(f"| {file.parent.name} | {tests:,} | {failures + errors} | {skipped} | {minutes:.1f} |")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
