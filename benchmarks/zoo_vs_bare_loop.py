"""Compare the cost of all checks on timm with the cost of only running the models.

Run it with `python benchmarks/zoo_vs_bare_loop.py`.

Three variants run over the same models, one after the other, in two processes with one thread each:

- bare: a loop that creates each model and runs one forward and one backward pass, batch 2, at its own resolution
- test: the same as a parametrized pytest test under xdist
- harness: `pytest --headswap-zoo=timm`, all checks, with `-n 2` and with `--headswap-executor=local:2`

In the variants `bare` and `test`, two large models do not fit in memory at once. These variants run large models one at
a time, with two threads. CPU seconds are summed over all processes; the peak is that of the largest process. Ratios are
relative to the bare loop.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    """The cost of one variant: wall seconds, CPU seconds of all processes, and peak MB of the largest process."""

    wall: float
    cpu: float
    peak_mb: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(round(self.wall + other.wall, 1), round(self.cpu + other.cpu, 1), max(self.peak_mb, other.peak_mb))


def measure(commands: Sequence[Sequence[str]], folder: Path, threads: int = 1) -> Cost:
    """Run commands in parallel and return their total cost, including children. Exit if one fails."""
    # measure in a separate child: the peak of children covers every child a process ever had
    script = (
        "import json, resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in json.loads(sys.argv[1])]\n"
        "codes = [process.wait() for process in running]\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "wall, cpu = time.perf_counter() - start, used.ru_utime + used.ru_stime\n"
        "print(json.dumps([wall, cpu, used.ru_maxrss / 1024, codes]))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, pytest recompiles test modules in every run
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


EVERY = 20
_LARGE, _MAX = 8.0, 16.0  # gigabytes of a bare loop: run models above the first one at a time, skip those above _MAX


def sample(every: int = EVERY) -> dict[str, float]:
    """Return every Nth timm model with its gigabytes in a bare loop, without headless encoders and the largest."""
    import timm

    names = [name for name in timm.list_models()[::every] if not name.endswith("_enc")]
    sizes = {name: _bare_gigabytes(name) for name in names}
    return {name: size for name, size in sizes.items() if size <= _MAX}


def _bare_gigabytes(name: str) -> float:
    """Return the gigabytes of a bare loop after a forward pass: weights, gradients, and tensors saved for backward."""
    import timm
    import torch

    storages: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model = timm.create_model(name).train()
        kept = model(torch.randn(2, *model.default_cfg["input_size"]))
    weights = sum(value.numel() * value.element_size() for value in model.parameters())
    del kept
    return (2 * weights + sum(storages.values())) / 1e9


_ABSTRACT = "--headswap-evidence=abstract"
HARNESS = {
    "-n 2": ["-n", "2"],
    "-n 2, abstract": ["-n", "2", _ABSTRACT],
    "local:2": ["--headswap-executor=local:2"],
    "local:2, abstract": ["--headswap-executor=local:2", _ABSTRACT],
}
"""The flags of each variant of the harness."""

FIXED = "test_vit"
"""A model that costs almost nothing to run."""


def measure_ways(sizes: Mapping[str, float]) -> Iterator[tuple[str, Cost]]:
    """Yield the cost of each variant, then the fixed cost of a run as `import` and `one small model`."""
    large = [name for name, size in sizes.items() if size > _LARGE]
    small = [name for name in sizes if name not in large]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "test_small.py").write_text(TEST.replace("{names!r}", repr(small)))
        (folder / "test_large.py").write_text(TEST.replace("{names!r}", repr(large)))
        plain = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        zoo = [*plain, "--headswap-zoo=timm", f"--headswap-models={','.join(sizes)}"]
        loop = [sys.executable, "-c", LOOP]
        yield (
            "bare",
            measure([[*loop, *small[index::2]] for index in range(2)], folder)
            + measure([[*loop, *large]], folder, threads=2),
        )
        yield (
            "test",
            measure([[*plain, "-n", "2", "test_small.py"]], folder)
            + measure([[*plain, "test_large.py"]], folder, threads=2),
        )
        for way, flags in HARNESS.items():
            yield way, measure([[*zoo, *flags]], folder)
        yield "import", measure([[sys.executable, "-c", "import torch, timm"]], folder)
        yield "one small model", measure([[*plain, "--headswap-zoo=timm", f"--headswap-models={FIXED}"]], folder)


def table(models: int, costs: Mapping[str, Cost]) -> list[str]:
    """Return the figures as a Markdown table, with ratios to the bare loop."""
    lines = [
        f"{models} timm models, sampled evenly, in two processes with one thread each:",
        "",
        "| | wall | CPU | largest process | wall relative to the bare loop |",
        "|---|---:|---:|---:|---:|",
    ]
    for way, what in WAYS.items():
        if way in costs:
            cost, ratio = costs[way], costs[way].wall / costs["bare"].wall
            lines.append(f"| {what} | {cost.wall:.0f} s | {cost.cpu:.0f} s | {cost.peak_mb:,.0f} MB | {ratio:.3f} |")
    if "one small model" in costs:
        more = costs["one small model"].wall - costs["import"].wall
        difference = f"{abs(more):.1f} s {'more' if more >= 0 else 'less'} than importing torch and timm"
        lines += ["", f"All checks of one small model take {difference}."]
    return lines


WAYS = {
    "bare": "bare loop: create, one forward and one backward at the model's own resolution",
    "test": "the same as a parametrized pytest test",
    "-n 2": "`pytest --headswap-zoo=timm -n 2`: all checks",
    "-n 2, abstract": "the same with `--headswap-evidence=abstract`",
    "local:2": "`pytest --headswap-zoo=timm --headswap-executor=local:2`: all checks",
    "local:2, abstract": "the same with `--headswap-evidence=abstract`",
}


def main() -> None:
    """Measure every variant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=EVERY, help="measure every Nth model (default: 20)")
    arguments = parser.parse_args()
    sizes = sample(arguments.every)
    costs: dict[str, Cost] = {}
    for way, cost in measure_ways(sizes):
        costs[way] = cost
        print(way, cost, flush=True)
    print("\n".join(table(len(sizes), costs)))


if __name__ == "__main__":
    main()
