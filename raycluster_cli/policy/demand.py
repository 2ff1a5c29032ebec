"""Demand that no node can satisfy: it is shown while it lasts, and one warning names it."""

from __future__ import annotations

from dataclasses import replace

from . import events as on
from .actions import Action, ShowDemand, Warn
from .head_state import HeadRules, HeadState, Step
from .values import Phase


def demand_known(rules: HeadRules, state: HeadState, event: on.DemandKnown, now: float) -> Step:
    """What was there at the last look too counts: a node may have just left, or be about to join."""
    if state.phase is not Phase.RUNNING:
        return state, []
    lasting = tuple(text for text in event.unplaceable if _kind(text) in map(_kind, state.unplaceable))
    actions: list[Action] = []
    if lasting != state.unplaceable_shown:
        actions.append(ShowDemand(lasting))
    new = [text for text in lasting if _kind(text) not in state.unplaceable_told]
    actions += [Warn(f"{text} cannot start on these nodes") for text in new]
    told = state.unplaceable_told | {_kind(text) for text in new}
    state = replace(state, unplaceable=event.unplaceable, unplaceable_shown=lasting, unplaceable_told=told)
    return state, actions


def _kind(text: str) -> str:
    """A demand without its number, which changes while the driver submits more of it.

    >>> _kind("3 tasks or actors that each need 8 CPUs") == _kind("a task or an actor that needs 8 CPUs")
    True
    """
    _, _, what = text.partition(" that ")
    return what.removeprefix("each ").replace("needs ", "need ", 1) or text
