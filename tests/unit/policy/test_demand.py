"""Tasks and actors that fit on no node: one warning, and the record shows them while they wait."""

from __future__ import annotations

from raycluster_cli.model.unmet_demand import UnmetDemand
from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from tests.unit.policy.play import Event, all_in, play, rules

ONE = "a task or an actor that needs 64 CPUs (the largest node has 4 CPUs)"
MORE = "9 tasks or actors that each need 64 CPUs (the largest node has 4 CPUs)"
GROUP = "a placement group with a bundle of 8 GPUs (no node has any)"


KINDS = {ONE: "CPUs", MORE: "CPUs", GROUP: GROUP}


def demand(texts: tuple[str, ...]) -> on.DemandKnown:
    return on.DemandKnown(tuple(UnmetDemand(KINDS[text], text) for text in texts))


def looks(*found: tuple[str, ...]) -> list[Event]:
    """What the GCS says, every five seconds."""
    return [(10.0 + 5 * number, demand(one)) for number, one in enumerate(found)]


def test_one_warning_once_it_was_seen_twice() -> None:
    played = play(rules(), *all_in(), *looks((ONE,), (ONE,), (ONE,), (ONE,)), until=60.0)
    assert played.at(do.ShowDemand) == 15.0
    assert [action.unplaceable for action in played.of(do.ShowDemand)] == [(ONE,)]  # type: ignore[attr-defined]
    assert played.told.count(f"{ONE} cannot start on these nodes") == 1


def test_demand_that_passes_is_not_told() -> None:
    played = play(rules(), *all_in(), *looks((ONE,), (), (ONE,), ()), until=60.0)
    assert not played.of(do.ShowDemand)
    assert "cannot start" not in played.told


def test_more_of_the_same_is_shown_and_not_told_again() -> None:
    played = play(
        rules(), *all_in(), *looks((ONE,), (MORE,), (ONE, GROUP), (GROUP,), (GROUP,), ()), until=60.0
    )
    shown = [action.unplaceable for action in played.of(do.ShowDemand)]  # type: ignore[attr-defined]
    assert shown == [(MORE,), (ONE,), (GROUP,), ()]
    assert played.told.count("cannot start on these nodes") == 2


def test_nothing_once_the_run_ends() -> None:
    ended = (12.0, on.SignalReceived(15))
    played = play(rules(), *all_in(), *looks((ONE,)), ended, (12.05, demand((ONE,))))
    assert not played.of(do.ShowDemand)
