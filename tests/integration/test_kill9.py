"""A whole node under kill -9: whatever dies and whenever, nothing acknowledged is lost and nothing is reported twice.

Series are pushed as a scanner does, which sends again what was not acknowledged, while processes of the node are
killed at random moments, the supervisor among them. The log of the run must not hold the patient. A long run of the
same is ``load/test_many_kills.py``.
"""

from __future__ import annotations

import pytest

from tests.conftest import seed_of
from tests.crash_helpers import AT_WORK, kill_run

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::ResourceWarning")]

ROUNDS = 8


def test_nothing_is_lost_and_nothing_is_sent_twice(tmp_path, node_config, free_port):
    seed = seed_of("QA_KILL9_SEED")
    with kill_run(tmp_path, node_config, free_port, seed) as run:
        for _ in range(ROUNDS):
            run.kill_at_work(run.chance.choice(list(AT_WORK)), run.push())
        run.finish(120 + 10 * ROUNDS)
        counted = run.summary()
        print(counted)
        assert counted["kills"] == counted["series"] == counted["reports delivered"] == ROUNDS
        assert counted["series with two reports"] == 0
        run.check()
