"""The port claims and servers of the unit tests of ports."""

from tests.unit.system.conftest import claim as claim
from tests.unit.system.conftest import listen as listen
from tests.unit.system.conftest import ports_alone as ports_alone
