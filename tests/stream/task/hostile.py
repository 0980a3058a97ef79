"""Events, good ones and damaged ones."""

import json
import random
from typing import Any

from stream.schema.topics import Topics

TOPICS = Topics()
T0 = 1_700_000_000_000
USERS = [f"user-{number}" for number in range(50)]
HOSTILE: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, 2**64, 10**30, 1e308, -1e308, 0.5, "", " ", "\x00", "é" * 300, "x" * 257, "\u202e",
    [], {}, [[]], [None], {"item": {}}, [{"item": "a"}] * 40, "../../etc/passwd", "'; DROP TABLE users; --", "NaN",
]  # fmt: skip


def good(rng: random.Random, topic: str, user: str, number: int) -> dict[str, Any]:
    event: dict[str, Any] = {"user": user, "ts": T0 + number}
    if topic == TOPICS.behaviors:
        return event | {"item": f"i{rng.randrange(99)}", "category": "c", "action": "view"}
    if topic == TOPICS.clicks:
        return event | {"item": f"i{rng.randrange(9)}", "request_id": f"r{rng.randrange(number + 1)}"}
    candidates = [{"item": f"i{item}", "category": "c"} for item in rng.sample(range(9), 4)]
    return event | {"request_id": f"r{number}", "slots": 2, "candidates": candidates}


def damaged(rng: random.Random, event: dict[str, Any]) -> bytes:
    """Return an event's JSON after something was done to it."""
    kind = rng.randrange(8)
    if kind == 0:
        event[rng.choice(list(event))] = rng.choice(HOSTILE)
    elif kind == 1:
        del event[rng.choice(list(event))]
    elif kind == 2:
        return rng.randbytes(rng.randrange(200))
    elif kind == 3:
        return b"[" * rng.randrange(1, 20_000)
    text = bytearray(json.dumps(event, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass"))
    if kind == 4:
        del text[rng.randrange(len(text)) :]
    elif kind == 5:
        for _ in range(rng.randrange(1, 6)):
            text[rng.randrange(len(text))] = rng.randrange(256)
    elif kind == 6:
        place = rng.randrange(len(text))
        text[place:place] = rng.choice([b"\xff\xfe", b"\\ud800", b'"', b"}", b"9" * 400, b"\x00", b'{"a":' * 50])
    elif kind == 7:
        text *= 2
    return bytes(text)
