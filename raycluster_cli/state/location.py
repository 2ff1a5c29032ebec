"""Where the state directories of a user's clusters are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..model.settings import Settings


def state_dir(settings: Settings, env: Mapping[str, str]) -> Path:
    """Where the records are."""
    if settings.state_dir:
        return Path(settings.state_dir).expanduser().absolute()
    return Path(env.get("HOME") or os.path.expanduser("~")) / ".raycluster"
