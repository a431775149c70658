"""What a node costs that has nothing to do: processor time of each role of a whole node, embedded SQLite, one target.

python -m benchmarks.idle
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.latency import wait_for_scorer
from dicom_qa_node.cli.demo_run import demo_node

_SETTLE_S = 8.0


def main() -> int:
    """Print the share of a core that each process took, in percent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="how long to watch the node")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="idle-") as folder, demo_node(Path(folder) / "node") as node:
        wait_for_scorer(node)
        time.sleep(_SETTLE_S)
        root = psutil.Process(node.process.pid)
        processes = [root, *root.children(recursive=True)]
        before = [_used_s(process) for process in processes]
        time.sleep(options.seconds)
        shares = [
            (_used_s(process) - used) / options.seconds * 100 for process, used in zip(processes, before, strict=True)
        ]
        for process, share in zip(processes, shares, strict=True):
            print(f"{process.cmdline()[-1]:10} {share:5.1f} %")
    print(f"{'node':10} {sum(shares):5.1f} %")
    return 0


def _used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    raise SystemExit(main())
