"""The Ray that is installed, and what is known of its private parts."""

from __future__ import annotations

import platform

import ray

RAY_VERSION: str = ray.__version__
PYTHON_VERSION: str = platform.python_version()


class Releases:
    """A range of Ray's releases, both ends included."""

    def __init__(self, first: tuple[int, int], last: tuple[int, int]) -> None:
        self.first = first
        self.last = last

    def __contains__(self, release: object) -> bool:
        return isinstance(release, tuple) and self.first <= release <= self.last


#: Releases that the quick way was tested with: the oldest, one between and the newest, see tests/ray.
TRIED = Releases((2, 52), (2, 60))

#: The first release whose GCS can keep its state without a server.
WITH_STORAGE = (2, 58)


def release(version: str) -> tuple[int, int]:
    """Major and minor number.

    >>> release("3.0.0.dev0")
    (3, 0)
    """
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


#: Modules that Ray imports only when it starts.
IMPORTED_BY_A_START = ("encodings.idna", "ray._common.usage.usage_lib")


class PrivateMissing(Exception):
    """A private part of Ray is not as it was in the versions that this was made for."""


#: What another version of Ray, whose private parts differ, can be expected to raise.
NOT_AS_KNOWN = (PrivateMissing, AttributeError, TypeError, ImportError, NameError, KeyError)
