"""A busy node whose processes are killed at random, many hundred times: all is counted, nothing is lost or sent twice.

``QA_KILLS=1000 pytest -m load tests/load/test_many_kills.py -s`` does it a thousand times; ``QA_KILLS_S`` ends the
killing after so many seconds, ``QA_KILL9_SEED`` repeats the choices of a run.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.conftest import seed_of
from tests.crash_helpers import SLICES, kill_run

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = [
    pytest.mark.full,
    pytest.mark.serial,
    pytest.mark.load,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ABREAST = 6
LONGEST_S = 5.0
#: How often each role is killed: a scorer loads its network for seconds, and a new supervisor starts everything.
WEIGHTS = {"receive": 8, "schedule": 4, "deliver": 6, "score": 3, "web": 2, "serve": 1}
TELL = 25


def test_many_kills_under_load_lose_nothing_and_send_nothing_twice(tmp_path, node_config, free_port):
    kills, longest_s = int(os.environ.get("QA_KILLS", "60")), float(os.environ.get("QA_KILLS_S", "inf"))
    seed = seed_of("QA_KILL9_SEED")
    print(f"QA_KILLS={kills}", flush=True)
    # A receiver that is killed again and again is started later each time: its series must not end by silence.
    waits = node_config.complete.model_dump(mode="json") | {"quiet_s": 900}
    with kill_run(tmp_path, node_config, free_port, seed, {"complete": waits}, "tests.fast_serve") as run:
        begun = time.monotonic()
        while len(run.node.killed) < kills and time.monotonic() - begun < longest_s:
            run.keep_busy(ABREAST)
            run.kill_any(WEIGHTS, LONGEST_S)
            if len(run.node.killed) % TELL == 0:
                print(f"{time.monotonic() - begun:.0f} s: {run.summary()}", flush=True)
        run.finish(600)
        counted = run.summary()
        print(f"{time.monotonic() - begun:.0f} s: {counted}", flush=True)
        assert counted["kills"] == kills or time.monotonic() - begun >= longest_s
        assert counted["images acknowledged"] == counted["images stored"] == SLICES * counted["series"]
        assert counted["reports delivered"] == counted["series"]
        assert counted["series with two reports"] == 0
        run.check()
