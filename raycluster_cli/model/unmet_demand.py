"""Demand that no node can satisfy, as it is passed on: a list of two texts in JSON."""

from __future__ import annotations

from typing import NamedTuple


class UnmetDemand(NamedTuple):
    """Tasks and actors that ask for the same, or placement groups of one kind, which fit on no node."""

    kind: str
    """What it is the same demand by, however many ask: "need 8 CPUs (the largest node has 4 CPUs)"."""
    text: str
    """For people, with the number: "3 tasks or actors that each need 8 CPUs (…)"."""
