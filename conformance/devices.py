"""Run the checks that use a device on a real one, and write its section of `conformance/DEVICES.md`.

    python -m conformance.devices vulkan builtin timm:16:5 --device-import=torchvulkan --max-parameters=20e6

`timm:16:5` takes every 16th model, from the sixth on. The models run as in `pytest --headswap-zoo`, each in a child
process. `conformance/<zoo>.toml` lists the expected results other than passes, such as for kernels that a device lacks.
The report folder keeps the results: an interrupted run goes on. The sections of other devices stay as they are.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from conformance.sampled_models import FAILURES, origin, outcomes, results_in, run, sample, what_did_not_pass
from pytest_headswap.report import Result, read_journal

TABLE = Path(__file__).parent / "DEVICES.md"
CHECKS = ("frozen_backbone", "device_placement")
_TITLE = "# Real devices"
_VARIABLES = ("PJRT_DEVICE", "XLA_FLAGS", "VK_ICD_FILENAMES", "CUDA_VISIBLE_DEVICES")
"""Variables of the environment that choose a device, or how it computes."""


def elsewhere(results: Sequence[Result], device: str) -> list[str]:
    """Return a line for each model that passed a check without running on the device, with the reason."""
    return [
        f"- {result.zoo} {result.check} `{result.model}` ran elsewhere ({result.evidence}): {result.message}"
        for result in results
        if result.outcome == "passed" and not result.evidence.startswith(device.partition(":")[0])
    ]


def setting(folder: Path) -> list[str]:
    """Return lines that name the devices of the runs in a folder, and the variables that choose them."""
    names = dict.fromkeys(
        name for file in folder.glob("*/results.jsonl") for name in read_journal(file.parent)[0].devices
    )
    variables = [f"`{name}={os.environ[name]}`" for name in _VARIABLES if name in os.environ]
    return [f"{what}: {', '.join(items)}." for what, items in (("Ran on", names), ("Set", variables)) if items]


def write_section(results: Sequence[Result], device: str, where_from: Sequence[str], path: Path) -> None:
    """Write the outcomes on a device, and what did not pass with its reason. Other sections of the file are kept."""
    lines = [*where_from, "", *outcomes(results, CHECKS)]
    details = [*what_did_not_pass(results, CHECKS), *elsewhere(results, device)]
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    sections = dict(re.findall(r"^## (\S+)\n\n(.*?)\n*(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    sections[device] = "\n".join([*lines, "", *details])
    written = [f"## {name}\n\n{section}" for name, section in sorted(sections.items())]
    path.write_text("\n\n".join([_TITLE, *written]) + "\n", encoding="utf-8")


def main() -> int:
    """Run the zoos and write the section. Return 1 if a model neither passed on the device nor failed as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device", help="as for --headswap-device")
    parser.add_argument("zoos", nargs="+", type=sample, metavar="ZOO[:STEP[:START]]")
    parser.add_argument("--device-import", help="as for --headswap-device-import")
    parser.add_argument("--max-parameters", type=float, default=20e6, help="leave larger models out (default: 20e6)")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for all checks of a model (default: 900)")
    parser.add_argument("--output", type=Path, default=TABLE, help="the file (default: conformance/DEVICES.md)")
    parser.add_argument("--report", type=Path, default=Path("headswap-devices"), help="folder of the results")
    arguments = parser.parse_args()
    folder = arguments.report / arguments.device.replace(":", "-")
    flags = [f"--headswap-device={arguments.device}", f"--headswap-timeout={arguments.timeout}"]
    backend = arguments.device_import
    if backend:
        flags.append(f"--headswap-device-import={backend}")
    for item in arguments.zoos:
        run(item, ",".join(CHECKS), arguments.max_parameters, folder / str(item).replace(":", "-"), flags)
    results = results_in(folder)
    where_from = origin(
        f"devices {arguments.device}",
        arguments.zoos,
        *([f"--device-import={backend}"] if backend else []),
        f"--max-parameters={arguments.max_parameters:g}",
        versions={backend: version(backend)} if backend else None,
    )
    write_section(results, arguments.device, [*where_from, *setting(folder)], arguments.output)
    print(arguments.output)
    return int(
        not results
        or any(result.outcome in FAILURES for result in results)
        or bool(elsewhere(results, arguments.device))
    )


if __name__ == "__main__":
    sys.exit(main())
