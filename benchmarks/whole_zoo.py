"""What all checks of timm cost beside merely running its models: `python benchmarks/whole_zoo.py`.

Three ways over the same models, in the same two processes with one thread each, one way after the other:

- bare: a loop that creates each model and runs one forward and one backward pass, batch 2, at its own resolution
- test: the same as a parametrized pytest test under xdist
- harness: `pytest --headswap-zoo=timm -n 2`, all checks

CPU seconds are those of all processes; the peak is that of the largest one. Ratios are to the bare loop.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

BARE = """
import sys, timm, torch

def run(name):
    model = timm.create_model(name).train()
    output = model(torch.randn(2, *model.default_cfg["input_size"]))
    outputs = output if isinstance(output, (list, tuple)) else [output]
    sum(tensor.float().mean() for tensor in outputs if torch.is_tensor(tensor)).backward()
"""
LOOP = BARE + "\nfor name in sys.argv[1:]:\n    run(name)\n"
TEST = BARE + "\nimport pytest\n\n@pytest.mark.parametrize('name', {names!r})\ndef test_runs(name):\n    run(name)\n"


@dataclass(frozen=True)
class Cost:
    """What one way took: seconds of the clock and of all CPUs, and megabytes of the largest process."""

    wall: float
    cpu: float
    peak_mb: float


def measure(commands: Sequence[Sequence[str]], folder: Path) -> Cost:
    """Run commands side by side and add up what they and their children used; each has to succeed."""
    # a child of our own for each measurement: the peak of children is that of all that ever were
    script = (
        "import json, resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in json.loads(sys.argv[1])]\n"
        "codes = [process.wait() for process in running]\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "wall, cpu = time.perf_counter() - start, used.ru_utime + used.ru_stime\n"
        "print(json.dumps([wall, cpu, used.ru_maxrss / 1024, codes]))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=environment,
    )
    wall, cpu, peak, codes = json.loads(done.stdout)
    if any(codes):
        raise SystemExit(f"{commands[0][:4]} ended with {codes}:\n{done.stderr[-2000:]}")
    return Cost(round(wall, 1), round(cpu, 1), round(peak))


def sample(every: int, most_parameters: int) -> list[str]:
    """Every so many models of timm, without those that the bare loop has no memory for."""
    import timm
    import torch

    names = []
    for name in timm.list_models()[::every]:
        with torch.device("meta"):
            model = timm.create_model(name)
        if sum(value.numel() for value in model.parameters()) <= most_parameters and not name.endswith("_enc"):
            names.append(name)
    return names


def main() -> None:
    """Measure, print a table, and write it to a file where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=22, help="take every so many models (default: 22, which makes 62)")
    parser.add_argument("--most-parameters", type=float, default=1.5e9, help="leave out larger ones (default: 1.5e9)")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    names = sample(arguments.every, int(arguments.most_parameters))
    print(f"{len(names)} models of timm, two processes of one thread", flush=True)
    costs = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "test_bare.py").write_text(TEST.replace("{names!r}", repr(names)))
        plain = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"]
        ways = {
            "bare": [[sys.executable, "-c", LOOP, *names[index::2]] for index in range(2)],
            "test": [[*plain, "test_bare.py"]],
            "harness": [[*plain, "--headswap-zoo=timm", f"--headswap-models={','.join(names)}"]],
            "structure": [
                [*plain, "--headswap-zoo=timm", f"--headswap-models={','.join(names)}", "--headswap-evidence=structure"]
            ],
        }
        for way, commands in ways.items():
            costs[way] = measure(commands, folder)
            cost, bare = costs[way], costs["bare"]
            print(
                f"{way:<10}{cost.wall:>8.1f} s wall{cost.cpu:>9.1f} CPU-s{cost.peak_mb:>8.0f} MB"
                f"{cost.wall / bare.wall:>8.3f} of the bare loop",
                flush=True,
            )
    if arguments.output:
        figures = {"models": len(names), "date": time.strftime("%Y-%m-%d"), **{k: asdict(v) for k, v in costs.items()}}
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
