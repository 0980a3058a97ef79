"""The end-to-end tests start more than a hundred workers and trainers: as forks, which saves each 1.5 s of a core.

The fault campaign uses the same harness and starts all of them as a user does; so do the tests of the command itself.
"""

from tests.e2e.forked import ForkedProcesses
from tests.e2e.harness import Harness

Harness.processes_type = ForkedProcesses
