"""The Faust application for `faust -A stream.monitor.app worker`; its settings come from the environment."""

from stream.monitor.monitor import Monitor
from stream.settings import load

app = Monitor(load()).app
