"""What a driver has left: what is asked of Ray's own classes, without a cluster."""

from __future__ import annotations

from raycluster_cli.rayproc.private.leftovers import Detached, Left, placement_group


def test_a_placement_group_is_known_by_its_id() -> None:
    digits = "0123456789abcdef0123456789ab01000000"
    assert placement_group(digits).id.hex() == digits


def test_what_is_left_is_counted_for_people() -> None:
    left = Left(jobs=("01",), actors=("a", "b"), detached=(Detached("", "ns"),), detached_groups=("c",))
    assert left.texts() == ["1 job", "3 actors", "1 placement group"]
    assert Left().texts() == []
