"""Which exit codes are right for a random fault in a phase, and what a seed draws."""

from __future__ import annotations

import pytest

from tests.slurm.random_faults import CUT_S, DELAYS_S, PAUSE_S, SHAPES, Fault, Phase, draw, right_codes

LAUNCHING, JOINING, CONNECTING, DRIVING, LEAVING, ENDING = Phase

#: The driver's own code.
DONE = 7


@pytest.mark.parametrize(
    ("kind", "what", "host", "lasts_s", "phases", "codes"),
    [
        ("killed", "keeper", "n2", 0, [LAUNCHING], {137}),
        ("killed", "supervisor", "n1", 0, [DRIVING], {137}),
        ("killed", "supervisor", "n1", 0, [ENDING], {137, DONE}),
        ("killed", "raylet", "n2", 0, [LAUNCHING], {4, 5, DONE}),
        ("killed", "raylet", "n2", 0, [CONNECTING], {1, 5}),
        ("killed", "raylet", "n2", 0, [DRIVING], {5}),
        ("killed", "agent", "n3", 0, [DRIVING, LEAVING], {5, DONE}),
        ("killed", "raylet", "n2", 0, [ENDING], {DONE}),
        ("killed", "gcs_server", "n1", 0, [LAUNCHING], {3, 4, 5, DONE}),
        ("killed", "gcs_server", "n1", 0, [DRIVING], {1, 5}),
        ("killed", "driver", "n1", 0, [DRIVING], {137}),
        ("killed", "driver", "n1", 0, [LEAVING], {137, DONE}),
        ("killed", "companion", "n1", 0, [JOINING], {3, DONE}),
        ("killed", "companion", "n2", 0, [JOINING], {4, DONE}),
        ("killed", "watcher", "n1", 0, [DRIVING], {DONE}),
        ("killed", "worker", "n2", 0, [DRIVING], {DONE}),
        ("stopped", "supervisor", "n1", PAUSE_S, [LAUNCHING, JOINING], {DONE}),
        ("stopped", "raylet", "n1", 0, [DRIVING], {1, 5}),
        ("stopped", "keeper", "n2", 0, [LAUNCHING, ENDING], {DONE}),
        ("cut", "cable", "n2", PAUSE_S, [DRIVING], {DONE}),
        ("cut", "cable", "n2", CUT_S, [LAUNCHING], {4, 5, DONE}),
        ("cut", "cable", "n1", CUT_S, [DRIVING], {1, 5}),
        ("cut", "cable", "n1", CUT_S, [ENDING], {DONE}),
        ("full", "record", "login", 0, [LAUNCHING], {1, 2, DONE}),
        ("full", "record", "login", 0, [DRIVING], {DONE}),
        ("full", "shared memory", "n2", 0, [JOINING], {2, 3, 4, DONE}),
        ("slow", "network", "n3", 6, [LAUNCHING, ENDING], {DONE}),
        ("cancelled", "scancel", "n1", 0, [LAUNCHING], {143}),
        ("cancelled", "scancel --signal=INT", "n1", 0, [DRIVING], {130}),
        ("cancelled", "raycluster stop", "n1", 0, [ENDING], {143, DONE}),
        ("requeued", "scontrol requeue", "n1", 0, [JOINING], {DONE}),
        ("requeued", "scontrol requeue", "n1", 0, [ENDING], {DONE}),
    ],
)
def test_which_codes_are_right(
    kind: str, what: str, host: str, lasts_s: float, phases: list[Phase], codes: set[int]
) -> None:
    assert right_codes(Fault(kind, what, host, lasts_s), phases, DONE) == codes


@pytest.mark.parametrize(
    ("kind", "what", "host", "lasts_s", "phases", "codes"),
    [
        ("killed", "keeper", "n2", 0, [LAUNCHING], {DONE}),
        ("killed", "raylet", "n2", 0, [CONNECTING], {DONE}),
        ("killed", "raylet", "n1", 0, [DRIVING], {1, 5}),
        ("cut", "cable", "n1", CUT_S, [DRIVING], {DONE}),
        ("cancelled", "SIGTERM", "n2", 0, [DRIVING], {DONE}),
        ("cancelled", "SIGTERM", "n1", 0, [DRIVING], {143}),
    ],
)
def test_which_codes_are_right_where_the_cluster_gets_another_worker_job(
    kind: str, what: str, host: str, lasts_s: float, phases: list[Phase], codes: set[int]
) -> None:
    assert right_codes(Fault(kind, what, host, lasts_s), phases, DONE, shape="grows") == codes


@pytest.mark.parametrize(
    ("kind", "what", "host", "phases", "codes"),
    [
        ("killed", "keeper", "n2", [LAUNCHING], {4, 5, DONE}),
        ("killed", "supervisor", "n2", [DRIVING], {5}),
        ("killed", "supervisor", "n2", [LEAVING], {5, DONE}),
        ("killed", "raylet", "n2", [DRIVING], {5}),
        ("killed", "keeper", "n1", [DRIVING], {137}),
        ("cancelled", "SIGTERM", "n2", [DRIVING], {5}),
        ("cancelled", "SIGTERM", "n1", [DRIVING], {143}),
    ],
)
def test_which_codes_are_right_where_the_heads_code_is_the_jobs(
    kind: str, what: str, host: str, phases: list[Phase], codes: set[int]
) -> None:
    assert right_codes(Fault(kind, what, host), phases, DONE, shape="apart") == codes


def test_a_seed_draws_the_same_again_and_all_are_drawn() -> None:
    drawn = [draw(seed) for seed in range(2000)]
    assert drawn == [draw(seed) for seed in range(2000)]
    kinds = {one.fault.kind for one in drawn}
    assert kinds == {"killed", "stopped", "cut", "full", "slow", "cancelled", "requeued"}
    assert {one.phase for one in drawn} == set(DELAYS_S)
    assert {one.shape for one in drawn} == set(SHAPES)
    for one in drawn:
        assert right_codes(one.fault, [one.phase], one.driver_code)
        assert 0 <= one.delay_s <= DELAYS_S[one.phase]
        # What only the head has is not looked for elsewhere.
        assert one.fault.host == "n1" or one.fault.what not in ("driver", "gcs_server", "watcher")
