"""Run the command line: `headswap explain`, and the other commands that `_parser` declares.

Exit codes:

- 0: success.
- 1: the model has no head or cannot be traced, journals cannot be read or merged, an expectations file is
  invalid, or the later of two runs has new failures.
- 2: an argument is invalid, or two runs cannot be compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pytest_headswap._version import __version__
from pytest_headswap.cli.expectations import add_expectations_command
from pytest_headswap.cli.explain import _explain
from pytest_headswap.cli.for_documentation import add_documentation_commands
from pytest_headswap.cli.reports import add_report_commands
from pytest_headswap.cli.zoos import add_zoo_commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    arguments = _parser().parse_args(argv)
    code: int = arguments.run(arguments)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headswap", description="Explain where the head of a model is. Write, merge and compare reports."
    )
    parser.add_argument("--version", action="version", version=f"headswap {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    explain = commands.add_parser(
        "explain", help="print the heads of a model, their evidence, and the rejected candidates"
    )
    explain.add_argument(
        "model", metavar="[ZOO:]MODEL", help="model or glob, such as timm:levit_128; ZOO is optional if only one has it"
    )
    explain.set_defaults(run=_explain)
    add_zoo_commands(commands)
    add_expectations_command(commands)
    add_report_commands(commands)
    add_documentation_commands(commands)
    return parser
