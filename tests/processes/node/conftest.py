"""The directories and children of the unit tests of node."""

from tests.unit.node.conftest import base as base
from tests.unit.node.conftest import make as make
from tests.unit.node.conftest import spawn as spawn
