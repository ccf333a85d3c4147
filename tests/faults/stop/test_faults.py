"""Every fault on a path under load, each several times.

One file for all of them, so that they share one path, and no two such paths ever
run at once. The one that takes the broker's log with it comes last.
"""

# ruff: noqa: F403, I001

from tests.faults.stop.fault_authority import *
from tests.faults.stop.fault_workers import *
from tests.faults.stop.fault_clock import *
from tests.faults.stop.fault_store import *
from tests.faults.stop.fault_producer import *
from tests.faults.stop.fault_broker import *
