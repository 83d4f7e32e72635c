"""Run the command line: `headswap explain`, `headswap list-zoos`, and `headswap report`, `merge` and `compare`.

Exit codes:

- 0: success.
- 1: the model has no head or cannot be traced, journals cannot be read or merged, or the later of two runs has new
  failures.
- 2: an argument is invalid, or two runs cannot be compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pytest_headswap._version import __version__
from pytest_headswap.cli.explain import _explain, _list_zoos
from pytest_headswap.cli.reports import add_report_commands


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
    explain.add_argument("model", metavar="ZOO:MODEL", help="model of a zoo, such as timm:levit_128")
    explain.set_defaults(run=_explain)
    zoos = commands.add_parser("list-zoos", help="list the zoos")
    zoos.set_defaults(run=_list_zoos)
    add_report_commands(commands)
    return parser
