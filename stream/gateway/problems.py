"""What the gateway answers where it cannot do what was asked: problem details (RFC 9457) that name the field."""

import re
from collections.abc import Sequence

from stream.errors import StreamError
from stream.gateway.bodies import FieldError, ProblemDetails

MEDIA_TYPE = "application/problem+json"
_TITLES = {
    400: "the body is no JSON",
    401: "no valid API key",
    404: "there is no such address",
    405: "the method is not allowed here",
    409: "the request_id belongs to another request",
    413: "the body is too large",
    422: "a field cannot be used",
    429: "too many requests wait",
    500: "the gateway has failed",
    503: "the gateway cannot take this now",
    504: "no score came in time",
}
_PATH = re.compile(r" - at `\$([^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `([^`]+)`")
_NAMED = re.compile(r"^`\$?\.?([^`]+)`")
_PART = re.compile(r"\[(\d+)\]|\.?([^.\[\]]+)")


class ProblemError(StreamError):
    """An error that a caller gets.

    Args:
        status: of HTTP.
        detail: what is wrong and what to do, for a person.
        errors: the fields at fault.
        retry_after_s: when to try again, whole seconds; None where that is of no use.
    """

    def __init__(
        self, status: int, detail: str, errors: Sequence[FieldError] = (), *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = list(errors)
        self.retry_after_s = retry_after_s

    def details(self) -> ProblemDetails:
        """Return it as the body of an answer."""
        title = _TITLES.get(self.status, "the request cannot be answered")
        return ProblemDetails("about:blank", title, self.status, self.detail, self.errors)


def field_error(error: Exception, *, line: int | None = None) -> FieldError:
    """Return what an error of decoding says, with the field that it is about.

    >>> field_error(ValueError("Expected `str`, got `int` - at `$.candidates[2].item`")).pointer
    '/candidates/2/item'
    >>> field_error(ValueError("Object missing required field `item` - at `$.candidates[0]`")).pointer
    '/candidates/0/item'
    """
    text = str(error)
    path = found[1] if (found := _PATH.search(text)) else ""
    parts = [number or name for number, name in _PART.findall(path)]
    if missing := _MISSING.match(text):
        parts.append(missing[1])
    elif not found and (named := _NAMED.match(text)):
        parts = [number or name for number, name in _PART.findall(named[1])]
    elif not found and "candidate" in text:
        parts = ["candidates"]
    return FieldError(text, "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in parts), line)


def unusable(error: Exception) -> ProblemError:
    """Return the problem of a body that no reader of the topics would accept: what it says, and where."""
    found = field_error(error)
    return ProblemError(422, found.detail, [found])
