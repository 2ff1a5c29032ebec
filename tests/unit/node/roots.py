"""What the tests of node directories share."""

from __future__ import annotations

import os

import pytest

ROOT = os.geteuid() == 0
NOBODY = 65534
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: to be another user, or to mount")
#: A machine with one local file system, as /proc/self/mountinfo has it.
LOCAL = "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
