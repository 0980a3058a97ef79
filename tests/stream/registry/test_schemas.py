"""Schemas are asked for once, without anybody waiting; a registry that is away is asked until it answers."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from stream.errors import RegistryError
from stream.registry.schemas import Key, Reader, Schemas

DEADLINE_S = 10.0


class Registry:
    """What is asked, which may fail."""

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()
        self.away: set[int] | bool = False
        self.unknown: set[int] = set()
        self.now = 0.0
        self.asked_at: list[float] = []
        """By the real clock, which is what pauses are of."""

    def __call__(self, key: Key) -> Reader:
        self.asked_at.append(time.monotonic())
        self.asked[key.number] += 1
        if self.away is True or (self.away and key.number in self.away):
            raise RegistryError("it is away")
        if key.number in self.unknown:
            raise ValueError(f"no schema {key.number}")
        return lambda payload: (key, payload)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def schemas(registry: Registry) -> Iterator[Schemas]:
    made = Schemas(registry, clock=lambda: registry.now, longest_pause_s=0.2)
    yield made
    made.close()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_schema_is_asked_for_once_whoever_asks(registry: Registry, schemas: Schemas) -> None:
    keys = [Key("avro", number) for number in range(1, 20)]

    def ask_all() -> None:
        for key in keys:
            until(partial(schemas.ready, key))

    threads = [threading.Thread(target=ask_all) for _ in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.asked == Counter({key.number: 1 for key in keys})
    assert [schemas.reader(key)(b"x") for key in keys] == [(key, b"x") for key in keys]
    assert schemas.notes() == []


@pytest.mark.long
def test_a_registry_that_is_away_is_asked_until_it_answers_and_told_of(registry: Registry, schemas: Schemas) -> None:
    registry.away = True
    key = Key("avro", 7)
    assert not schemas.ready(key)
    until(lambda: registry.asked[7] >= 3)
    assert not schemas.ready(key)
    assert schemas.notes() == ["it is away. Records of schema 7 wait until it answers; none is lost"]
    registry.away = False
    until(lambda: schemas.ready(key))
    until(lambda: schemas.notes() == [])


@pytest.mark.long
def test_the_pauses_grow(registry: Registry, schemas: Schemas) -> None:
    """0.1 s, then 0.2 s each: without pauses it would be asked thousands of times."""
    registry.away = True
    schemas.ready(Key("avro", 7))
    until(lambda: registry.asked[7] >= 4)
    pauses = [after - before for before, after in pairwise(registry.asked_at)]
    assert pauses[0] > 0.09
    assert min(pauses[1:]) > 0.19


def test_one_schema_that_cannot_be_had_keeps_no_other_back(registry: Registry, schemas: Schemas) -> None:
    registry.away = {7}
    assert not schemas.ready(Key("avro", 7))
    until(lambda: registry.asked[7])
    until(lambda: schemas.ready(Key("avro", 8)))
    assert not schemas.ready(Key("avro", 7))


def test_a_schema_that_is_not_there_is_refused_and_asked_for_again_later(registry: Registry, schemas: Schemas) -> None:
    registry.unknown = {7}
    key = Key("protobuf", 7)
    until(lambda: schemas.ready(key))
    with pytest.raises(ValueError, match="no schema 7"):
        schemas.reader(key)
    assert schemas.ready(key)
    assert registry.asked[7] == 1
    registry.unknown.clear()
    registry.now = 60.0
    assert not schemas.ready(key)
    until(lambda: schemas.ready(key))
    assert schemas.reader(key)(b"x") == (key, b"x")
    assert registry.asked[7] == 2


def test_one_number_is_two_schemas_of_two_kinds(registry: Registry, schemas: Schemas) -> None:
    for key in (Key("avro", 7), Key("protobuf", 7)):
        until(partial(schemas.ready, key))
        assert schemas.reader(key)(b"x") == (key, b"x")


def test_closing_ends_the_questions(registry: Registry) -> None:
    registry.away = True
    schemas = Schemas(registry)
    schemas.ready(Key("avro", 7))
    until(lambda: registry.asked[7])
    schemas.close()
    asked = registry.asked[7]
    assert not schemas.ready(Key("avro", 8))
    assert registry.asked == Counter({7: asked})
