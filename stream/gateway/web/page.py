"""The page `/docs`: the OpenAPI description for people, from one file that loads nothing from elsewhere."""

from pathlib import Path
from typing import Any

from litestar import Request
from litestar.enums import MediaType
from litestar.openapi.plugins import OpenAPIRenderPlugin

_PAGE = Path(__file__).with_name("docs.html").read_bytes()


class ApiPage(OpenAPIRenderPlugin):
    """Serves the page, which reads `openapi.json` beside it."""

    def __init__(self) -> None:
        super().__init__(path="/", media_type=MediaType.HTML)

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        """Return the page."""
        return _PAGE
