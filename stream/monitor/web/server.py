"""The monitor's web server: the page, and the JSON that it draws. Nothing else of Faust's is served."""

import time
from importlib.resources import files
from typing import Any, Protocol

import faust
from faust.web.base import Request, Response
from faust.web.drivers import aiohttp

from stream.monitor.aggregate import Aggregate
from stream.monitor.counting import WindowPlan
from stream.monitor.guardrail_watch import GuardrailWatch
from stream.monitor.records import encode_json
from stream.monitor.web.state_json import state_json
from stream.settings import Settings


class Web(aiohttp.Web):
    """Faust's server without Faust's own pages, which tell of its insides."""

    default_blueprints = production_blueprints = debug_blueprints = optional_blueprints = ()


_FILES = (
    ("/", "page.html", "text/html"),
    ("/page.css", "page.css", "text/css"),
    ("/chart.js", "chart.js", "text/javascript"),
    ("/page.js", "page.js", "text/javascript"),
)


class MonitorState(Protocol):
    """What the page shows: the part of `Monitor` that it reads."""

    plan: WindowPlan
    settings: Settings
    guardrails: GuardrailWatch

    @property
    def shown(self) -> Aggregate:
        """What may be shown."""


def serve(app: faust.App, monitor: MonitorState) -> None:
    """Serve the page, what belongs to it, and `/api/state`."""
    for path, name, content_type in _FILES:
        _serve_file(app, path, files("stream.monitor.web").joinpath(name).read_bytes(), content_type)

    @app.page("/api/state")
    async def state(view: Any, _request: Request) -> Response:
        now = round(1000 * time.time())
        content = state_json(monitor.shown, monitor.plan, monitor.settings, now, monitor.guardrails.results)
        return view.bytes(encode_json(content), content_type="application/json")  # type: ignore[no-any-return]


def _serve_file(app: faust.App, path: str, content: bytes, content_type: str) -> None:
    @app.page(path)
    async def file(view: Any, _request: Request) -> Response:
        return view.bytes(content, content_type=content_type)  # type: ignore[no-any-return]
