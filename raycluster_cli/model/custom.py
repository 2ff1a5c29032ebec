"""Custom resources and labels of a node, by the rules of Ray: what it would refuse is refused first."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import UsageError

MAX_RESOURCE_QUANTITY = 100e12
"""Ray's own bound (ray_constants.MAX_RESOURCE_QUANTITY)."""

_RESERVED_LABELS = ("ray.io/node-id",)
"""Keys that Ray sets itself; a raylet that is given one ends in its start ("should never be set by the user",
seen in Ray 2.60).  Others of ray.io/ are Ray's own too, but for users to set: ray.io/node-group."""

# Ray's rules for labels (ray/_private/label_utils.py, the same as Kubernetes').
_LABEL_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?")
_LABEL_PREFIX = re.compile(
    r"[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?)*"
)

# Resources with an option of their own, by the names that Ray knows them by.
_OWN_OPTION = {
    "CPU": "--num-cpus",
    "GPU": "--num-gpus",
    "memory": "--memory",
    "object_store_memory": "--object-store-memory",
}


def check_resources(resources: Mapping[str, float | str]) -> dict[str, float]:
    """Custom resources as Ray takes them: whole numbers, and no name that has an option of its own.

    >>> check_resources({"slots": "2"})
    {'slots': 2.0}
    """
    checked: dict[str, float] = {}
    for name, amount in resources.items():
        if name in _OWN_OPTION:
            raise UsageError(
                f"--resources cannot set {name}: found {name}={amount}, needed other names.",
                f"Use {_OWN_OPTION[name]}.",
            )
        if not name.strip() or name.startswith("node:"):
            raise UsageError(
                f"--resources: found the name {name!r}, needed one that Ray does not keep for itself."
            )
        try:
            value = float(amount)
        except (TypeError, ValueError):
            value = -1.0
        if not (0 <= value <= MAX_RESOURCE_QUANTITY and value.is_integer()):
            raise UsageError(
                f"--resources: found {name}={str(amount)[:40]}, needed a whole number of at least 0: "
                "Ray takes no fractions for what a node has."
            )
        checked[name] = value
    return checked


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels as Ray takes them, with its own rules for keys and values.

    >>> check_labels({"site/rack": "r17"})
    {'site/rack': 'r17'}
    """
    for key, value in labels.items():
        if key in _RESERVED_LABELS:
            raise UsageError(
                f"--labels: found the key {key!r}, needed one that Ray does not set itself.",
                "Ray gives each node this label; leave it out.",
            )
        prefix, slash, name = key.rpartition("/")
        good_prefix = not slash or (len(prefix) <= 253 and _LABEL_PREFIX.fullmatch(prefix))
        if not (good_prefix and _LABEL_NAME.fullmatch(name)):
            raise UsageError(
                f"--labels: found the key {key[:80]!r}, needed up to 63 letters, digits, '-', '_' and '.', "
                "beginning and ending with a letter or digit, after an optional prefix such as example.org/."
            )
        if value and not _LABEL_NAME.fullmatch(value):
            raise UsageError(
                f"--labels: found {key}={value[:80]!r}, needed a value of up to 63 letters, digits, '-', '_' "
                "and '.', beginning and ending with a letter or digit."
            )
    return dict(labels)
