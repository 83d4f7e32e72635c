"""Compare runs in two processes of pytest, on a Ray cluster, and under xdist: `python benchmarks/executors.py`.

All check the same models with abstract evidence, one after the other, in two processes with one thread each. The
cluster has two CPUs of this machine. It is started before the measurement, and its processes start during it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from zoo_vs_bare_loop import Cost, measure

EVERY = 5
_STORE_BYTES = 2**28


def measure_each(every: int = EVERY) -> dict[str, Cost]:
    """Measure every Nth model of timm; return the costs of `xdist`, `local` and, if Ray is installed, `ray`."""
    import timm

    names = ",".join(timm.list_models()[::every])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        zoo = [*pytest, "--headswap-zoo=timm", f"--headswap-models={names}", "--headswap-evidence=abstract"]
        costs = {"xdist": measure([[*zoo, "-n", "2"]], folder)}
        costs["local"] = measure([[*zoo, "--headswap-executor=local:2"]], folder)
        if find_spec("ray") is not None:
            with _cluster() as address:
                costs["ray"] = measure([[*zoo, f"--headswap-executor=ray:{address}"]], folder)
    return costs


@contextmanager
def _cluster() -> Iterator[str]:
    """Start a Ray cluster with two CPUs, and yield its address."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def table(every: int, costs: Mapping[str, Cost]) -> list[str]:
    """Return the figures as a Markdown table. Ray's processes are not those of the run, so their CPU is not known."""
    lines = [
        f"Every {every}th timm model with `--headswap-evidence=abstract`, in two processes with one thread each:",
        "",
        "| | wall | wall relative to `-n 2` |",
        "|---|---:|---:|",
    ]
    for way, what in WAYS.items():
        if way in costs:
            lines.append(f"| {what} | {costs[way].wall:.0f} s | {costs[way].wall / costs['xdist'].wall:.2f} |")
    if "ray" not in costs:
        lines += ["", "Ray was not measured, because it is not installed: `pip install 'pytest-headswap[ray]'`."]
    return lines


WAYS = {
    "xdist": "`-n 2`",
    "local": "`--headswap-executor=local:2`",
    "ray": "`--headswap-executor=ray:ADDRESS`, a cluster with 2 CPUs",
}


def main() -> None:
    """Measure each and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=EVERY, help=f"measure every Nth model (default: {EVERY})")
    arguments = parser.parse_args()
    print("\n".join(table(arguments.every, measure_each(arguments.every))))


if __name__ == "__main__":
    main()
