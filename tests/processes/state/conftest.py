"""The record of the unit tests of state."""

from tests.unit.state.conftest import record as record
from tests.unit.state.conftest import state as state
