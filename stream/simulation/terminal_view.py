"""The live view of a running system: snapshots as a table in a terminal, or as plain lines elsewhere."""

import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from msgspec import Struct
from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stream.report.formatting import number
from stream.runtime import signals

_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = ("bright_blue", "dark_orange", "green3", "orchid1", "gold1", "cyan")


class ArmSnapshot(Struct, frozen=True):
    """One arm now: model version, CTR with its 95% interval, and log loss in windows up to now, oldest first."""

    name: str
    epoch: int
    version: int
    impressions: int
    clicks: int
    ctr: float
    ctr_low: float
    ctr_high: float
    log_loss: Sequence[float] = ()


class Snapshot(Struct, frozen=True, kw_only=True):
    """Everything the view shows at one moment. A number that is not known yet is NaN.

    Attributes:
        phase: such as "warming up".
        elapsed: seconds since the phase began.
        total: seconds the phase takes; 0 when unknown.
        events: records a second into the system.
        scores: answers a second.
        clicks: clicks a second.
        samples: items a second that the trainer learns from.
        latency_p50: ms from impression produced to score received; `latency_p99` likewise.
        freshness_p50: s from click produced to the first answer that knows it; `freshness_p99` likewise.
        lag: records sent and not answered or learned yet.
        dead_letters: records that could not be used, since the start.
        arms: the arms, in their order.
        verdict: the experiment's verdict as a sentence; empty while there is none.
    """

    phase: str
    elapsed: float
    total: float = 0.0
    events: float = math.nan
    scores: float = math.nan
    clicks: float = math.nan
    samples: float = math.nan
    latency_p50: float = math.nan
    latency_p99: float = math.nan
    freshness_p50: float = math.nan
    freshness_p99: float = math.nan
    lag: int = 0
    dead_letters: int = 0
    arms: Sequence[ArmSnapshot] = ()
    verdict: str = ""


def render(snapshot: Snapshot) -> RenderableType:
    """Return the snapshot as a view of at least 80 columns."""
    title = Text.assemble(("samstream ", "bold"), (snapshot.phase, "cyan"))
    return Panel(
        Group(
            _progress(snapshot),
            Text(),
            _rates(snapshot),
            *([_arms(snapshot)] if snapshot.arms else []),
            *([Text(snapshot.verdict, style="bold"), Text()] if snapshot.verdict else []),
        ),
        title=title,
        title_align="left",
        border_style="grey50",
        padding=(1, 1, 0, 1),
    )


def plain_line(snapshot: Snapshot) -> str:
    """Return the snapshot as one line, for output that is no terminal."""
    parts = [
        f"{snapshot.elapsed:5.0f}s {snapshot.phase}",
        f"events/s {number(snapshot.events)} scores/s {number(snapshot.scores)} clicks/s {number(snapshot.clicks)}",
        f"learned/s {number(snapshot.samples)}",
        f"latency {number(snapshot.latency_p50)}/{number(snapshot.latency_p99)} ms",
        f"freshness {number(snapshot.freshness_p50, 1)}/{number(snapshot.freshness_p99, 1)} s",
        *(f"{arm.name} v{arm.epoch}.{arm.version} CTR {_interval(arm)}" for arm in snapshot.arms),
        f"lag {snapshot.lag} dead {snapshot.dead_letters}",
        *([snapshot.verdict] if snapshot.verdict else []),
    ]
    return " | ".join(parts)


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Return the newest `width` values as bars between their least and greatest; NaN is a blank."""
    newest = list(values)[-width:]
    known = [value for value in newest if not math.isnan(value)]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    top = len(_BARS) - 1
    return "".join(
        " " if math.isnan(value) else _BARS[round((value - low) / span * top) if span else top // 2] for value in newest
    )


def _progress(snapshot: Snapshot) -> RenderableType:
    if snapshot.total <= 0:
        return Text(f"{snapshot.elapsed:.0f} s", style="grey70")
    done = min(1.0, snapshot.elapsed / snapshot.total)
    filled = round(done * 40)
    return Text.assemble(
        ("━" * filled, "bright_blue"),
        ("━" * (40 - filled), "grey30"),
        (f"  {snapshot.elapsed:.0f} of {snapshot.total:.0f} s", "grey70"),
    )


def _rates(snapshot: Snapshot) -> RenderableType:
    flow = _numbers(
        ("events/s", number(snapshot.events)),
        ("scores/s", number(snapshot.scores)),
        ("clicks/s", number(snapshot.clicks)),
        ("learned/s", number(snapshot.samples)),
    )
    times = _numbers(
        ("latency p50", f"{number(snapshot.latency_p50)} ms"),
        ("latency p99", f"{number(snapshot.latency_p99)} ms"),
        ("freshness p50", f"{number(snapshot.freshness_p50, 1)} s"),
        ("freshness p99", f"{number(snapshot.freshness_p99, 1)} s"),
    )
    dead = (str(snapshot.dead_letters), "bold red") if snapshot.dead_letters else ("0", "bold")
    health = _numbers(("lag", f"{snapshot.lag:,}"), ("dead letters", dead[0]), style=dead[1])
    return Columns([flow, times, health], padding=(0, 5))


def _numbers(*rows: tuple[str, str], style: str = "bold") -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="grey70")
    table.add_column(justify="right", style="bold", min_width=7)
    for place, (name, value) in enumerate(rows):
        table.add_row(name, Text(value, style=style if place == len(rows) - 1 else "bold"))
    return table


def _arms(snapshot: Snapshot) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, header_style="grey70", padding=(0, 1), pad_edge=False)
    table.add_column("arm", no_wrap=True)

    for heading in ("model", "impressions", "clicks", "CTR [95%]"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("log loss", overflow="crop")
    for arm, colour in zip(snapshot.arms, _COLOURS * len(snapshot.arms), strict=False):
        latest = next((loss for loss in reversed(arm.log_loss) if not math.isnan(loss)), math.nan)
        table.add_row(
            Text(arm.name, style=f"bold {colour}"),
            f"{arm.epoch}.{arm.version}",
            f"{arm.impressions:,}",
            f"{arm.clicks:,}",
            _interval(arm),
            Text.assemble((number(latest, 3), "bold"), " ", (sparkline(arm.log_loss, 12), colour), no_wrap=True),
        )
    return table


def _interval(arm: ArmSnapshot) -> str:
    if math.isnan(arm.ctr):
        return "–"
    if math.isnan(arm.ctr_low):
        return f"{arm.ctr:.1%}"
    return f"{arm.ctr:.1%} [{100 * arm.ctr_low:.1f}, {100 * arm.ctr_high:.1f}]"


_LINE_S = 5.0


class Viewer:
    """Shows snapshots in a terminal.

    Args:
        console: where to.
        plain: lines even in a terminal.
    """

    def __init__(self, console: Console, *, plain: bool) -> None:
        self._console = console
        self._live = None if plain or not console.is_terminal else Live(console=console, refresh_per_second=4)
        self._next_line = 0.0
        self._phase = ""

    def __enter__(self) -> Self:
        """Begin."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop refreshing; the last view stays."""
        if self._live is not None:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Show a snapshot; as a line only now and then, and whenever the phase changes.

        Raises:
            KeyboardInterrupt: when a Ctrl-C was swallowed, see `stream.runtime.signals`.
        """
        signals.raise_if_interrupted()
        if self._live is not None:
            self._live.update(render(snapshot))
        elif time.monotonic() >= self._next_line or snapshot.phase != self._phase:
            self._next_line, self._phase = time.monotonic() + _LINE_S, snapshot.phase
            self._console.print(plain_line(snapshot), soft_wrap=True, highlight=False)
