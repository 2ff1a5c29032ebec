"""Versions that are known without importing Ray."""

from __future__ import annotations

import sys


def python_version() -> str:
    """Of this interpreter: '3.11.7'.  All nodes of a Ray cluster need the same."""
    return ".".join(str(part) for part in sys.version_info[:3])
