"""Serve a Ray cluster on this machine: commands come in on stdin, and each gets one line on stdout.

It runs in a process of its own. Modules of Ray that pytester unloads and loads again crash.
"""

from __future__ import annotations

import sys
from typing import Any

from ray.cluster_utils import Cluster


def main() -> None:
    """Start a head with one CPU. Then obey `add CPUS GPUS` and `kill`, which ends the newest node, until stdin ends."""
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = []
    print(cluster.address, flush=True)
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "add":
            nodes.append(cluster.add_node(num_cpus=int(numbers[0]), num_gpus=int(numbers[1])))
        else:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
