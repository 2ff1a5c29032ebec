"""Workers in jobs of their own: nobody waits for them, and nothing ends because they are lost."""

from __future__ import annotations

import pytest

from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from raycluster_cli.policy.values import Cause, Phase

from .play import Around, all_in, elastic, join, leave, play, rules, up

ONE, TWO = elastic("n8"), elastic("n9", "4713_1")


def test_they_do_not_count_for_the_start() -> None:
    played = play(
        rules(workers=2), *up(), (1, on.WorkerJoined(ONE)), (1, on.WorkerJoined(TWO)), *join("n2", at=2)
    )
    assert played.state.phase is Phase.WAITING
    assert played.of(do.StartDriver) == []
    assert "worker n8.4712 joined (10.0.0.8)" in played.notes
    assert list(played.state.members) == ["n2-1", "n8-4712", "n9-4713_1"]


@pytest.mark.parametrize("loss", ["fail", "continue", "wait:5"])
def test_their_loss_ends_nothing(loss: str) -> None:
    around = Around(causes={"n8.4712": Cause("its raylet was killed by SIGKILL")})
    played = play(
        rules(loss=loss),
        *all_in(),
        (2, on.WorkerJoined(ONE)),
        (3, on.WorkerLeft(ONE)),
        around=around,
        until=60,
    )
    assert played.running
    assert played.state.elastic == {}
    assert (
        "worker n8.4712 (10.0.0.8) is lost: its raylet was killed by SIGKILL; the cluster goes on without it"
    ) in played.told


def test_a_signal_that_ended_one_is_not_on_its_way_to_the_head() -> None:
    around = Around(causes={"n8.4712": Cause("ended by SIGTERM", signalled=True)})
    played = play(
        rules(), *all_in(), (2, on.WorkerJoined(ONE)), (3, on.WorkerLeft(ONE)), around=around, until=60
    )
    assert played.running
    assert played.state.losses == {}


def test_one_that_leaves_as_it_is_meant_to_is_only_noted() -> None:
    around = Around(causes={"n8.4712": Cause("idle for 5 min", orderly=True)})
    played = play(
        rules(), *all_in(), (2, on.WorkerJoined(ONE)), (3, on.WorkerLeft(ONE)), around=around, until=60
    )
    assert "n8.4712" not in played.told
    assert "worker n8.4712 (10.0.0.8) left: idle for 5 min" in played.notes


def test_they_are_no_replacement_for_the_heads_own_workers() -> None:
    played = play(rules(), *all_in(), (2, on.WorkerJoined(ONE)), leave("n3", 3), until=60)
    assert played.end.reason == "worker-lost"
    assert played.end.failed_host == "n3"
