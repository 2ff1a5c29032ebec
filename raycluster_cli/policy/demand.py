"""Demand that no node can satisfy: the record shows it while it lasts, and one warning names it."""

from __future__ import annotations

from dataclasses import replace

from . import events as on
from .actions import Action, ShowDemand, Warn
from .head_state import HeadRules, HeadState, Step
from .values import Phase


def demand_known(rules: HeadRules, state: HeadState, event: on.DemandKnown, now: float) -> Step:
    """Only what was there at the last look too counts: a node may have just left, or be about to join."""
    if state.phase is not Phase.RUNNING:
        return state, []
    lasting = [one for one in event.unplaceable if one.kind in state.unplaceable]
    texts = tuple(one.text for one in lasting)
    actions: list[Action] = []
    if texts != state.unplaceable_shown:
        actions.append(ShowDemand(texts))
    new = [one for one in lasting if one.kind not in state.unplaceable_told]
    actions += [Warn(f"{one.text} cannot start on these nodes") for one in new]
    state = replace(
        state,
        unplaceable=frozenset(one.kind for one in event.unplaceable),
        unplaceable_shown=texts,
        unplaceable_told=state.unplaceable_told.union(one.kind for one in new),
    )
    return state, actions
