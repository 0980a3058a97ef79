"""The schemas that were asked for, each once, in a thread of its own; again and again while the registry is away."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from stream.errors import RegistryError
from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log

_logger = logging.getLogger("samstream.registry")

_REFUSED_S = 10.0
"""How long it holds that the registry has no such schema: it may be registered later."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0


Kind = Literal["avro", "protobuf"]
Reader = Callable[[bytes], Any]
"""Returns the plain value that the bytes behind the header are; raises exceptions of any kind."""


class Key(NamedTuple):
    """Which schema, and what kind it must be."""

    kind: Kind
    number: int


class _Refusal(NamedTuple):
    why: str
    at: float


class Schemas:
    """Readers by schema. Any thread may ask; no answer is waited for.

    A schema never changes, so one that is known is never asked for again, and values of it are read while the registry
    is away.

    Args:
        ask: returns the reader of a schema; raises ValueError when there is none, RegistryError when it is to be asked
            again. Called in a thread.
        clock: monotonic, seconds.
        longest_pause_s: between two questions while the registry is away.
    """

    def __init__(
        self,
        ask: Callable[[Key], Reader],
        *,
        clock: Callable[[], float] = time.monotonic,
        longest_pause_s: float = _LONGEST_PAUSE_S,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._longest_pause_s = longest_pause_s
        self._known: dict[Key, Reader | _Refusal] = {}
        self._wanted: dict[Key, None] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble = ""
        self._log_limit = LogLimit(clock=clock)

    def ready(self, key: Key) -> bool:
        """Say whether a schema is known, or known not to be; if not, it is being asked for from now on."""
        if self._is_known(key):
            return True
        with self._changed:
            if self._is_known(key):
                return True
            if key not in self._wanted:
                self._wanted[key] = None
                self._changed.notify_all()
                if self._thread is None and not self._stop.is_set():
                    self._thread = threading.Thread(target=self._run, name="schema-registry", daemon=True)
                    self._thread.start()
        return False

    def reader(self, key: Key) -> Reader:
        """Return what reads values of a schema, once `ready` has said so.

        Raises:
            ValueError: says why there is none.
        """
        known = self._known[key]
        if isinstance(known, _Refusal):
            raise ValueError(known.why)
        return known

    def notes(self) -> list[str]:
        """Return what keeps schemas from being known, in words; empty when nothing does."""
        return [self._trouble] if self._trouble else []

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _is_known(self, key: Key) -> bool:
        known = self._known.get(key)
        return known is not None and not (isinstance(known, _Refusal) and self._clock() - known.at > _REFUSED_S)

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: bool(self._wanted) or self._stop.is_set())
                wanted = list(self._wanted)
            for key in wanted:
                try:
                    found: Reader | _Refusal = self._ask(key)
                except ValueError as error:
                    found = _Refusal(str(error), self._clock())
                except RegistryError as error:
                    self._tell(key, error)
                    with self._changed:  # the others first: this one alone may be what the registry has trouble with
                        self._wanted[key] = self._wanted.pop(key)
                    self._stop.wait(pause_s)
                    pause_s = min(2 * pause_s, self._longest_pause_s)
                    break
                with self._changed:
                    self._known[key] = found
                    del self._wanted[key]
                pause_s = _FIRST_PAUSE_S
                self._recovered()

    def _tell(self, key: Key, error: RegistryError) -> None:
        self._trouble = f"{error}. Records of schema {key.number} wait until it answers; none is lost"
        if self._log_limit.admit("trouble") is not None:
            log(_logger, "registry_away", logging.WARNING, schema=key.number, error=error)

    def _recovered(self) -> None:
        if self._trouble:
            self._trouble = ""
            log(_logger, "registry_back", logging.WARNING)
