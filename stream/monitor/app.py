"""The Faust application for `faust -A stream.monitor.app worker`; its settings come from the environment."""

from stream.monitor.run import prepare
from stream.settings import load

app = prepare(load()).app
