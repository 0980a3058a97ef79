"""Pieces of an update that several ranks publish: the whole comes once all are there, in order, whoever is ahead."""

from dataclasses import replace
from random import Random
from typing import Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.embedding.shards import Rank
from model.serialization.parts import Assembler, PiecePart, split
from model.serialization.update import Update
from tests.model.serialization.test_update import assert_equal, refusal, update


def pieces_of(whole: Update, ranks: int) -> list[Update]:
    """Return what each rank publishes: the first the dense parameters, each some of the rows."""
    pieces = []
    for rank in range(ranks):
        rows = np.arange(len(whole.tensors["item/keys"])) % ranks == rank
        tensors = {name: whole.tensors[name][rows] for name in ("item/keys", "item/values")}
        dense = {name: tensor for name, tensor in whole.tensors.items() if "/" not in name}
        pieces.append(replace(whole, tensors=tensors | (dense if rank == 0 else {}), piece=Rank(rank, ranks)))
    return pieces


def by_key(whole: Update) -> Update:
    order = np.argsort(whole.tensors["item/keys"])
    tensors = {name: each[order] if "/" in name else each for name, each in whole.tensors.items()}
    return replace(whole, tensors=tensors)


@pytest.mark.long
@settings(max_examples=100)
@given(st.integers(2, 4), st.lists(st.sampled_from(["base", "delta"]), min_size=1, max_size=5), st.randoms())
def test_updates_are_whole_and_in_order_however_far_a_rank_is_ahead(
    ranks: int, kinds: list[Literal["base", "delta"]], random: Random
) -> None:
    sent = [update(1 + number, kind=kind) for number, kind in enumerate(kinds)]
    streams = [
        [record for each in sent for record in split(pieces_of(each, ranks)[rank], 400)] for rank in range(ranks)
    ]
    assembler, got = Assembler(["sam"]), []
    while any(streams):
        stream = random.choice([each for each in streams if each])
        if (whole := assembler.add(stream.pop(0))) is not None:
            got.append(whole)
    assert len(got) == len(sent)
    for ours, theirs in zip(got, sent, strict=True):
        assert_equal(by_key(ours), by_key(theirs))
    assert not assembler.dropped


def test_an_update_that_lacks_a_piece_is_never_handed_out_and_makes_room_for_the_next() -> None:
    assembler = Assembler(["sam"])
    for version in range(1, 200):
        first, _ = pieces_of(update(version), 2)
        assert not any(assembler.add(record) for record in split(first, 400))
    waiting = assembler.dropped
    assert waiting > 100, "what waits is bounded"
    parts = [record for piece in pieces_of(update(500, kind="base"), 2) for record in split(piece, 400)]
    whole = [assembler.add(record) for record in parts]
    assert_equal(by_key(whole[-1] or update()), by_key(update(500, kind="base")))
    late = split(pieces_of(update(199), 2)[1], 400)
    assert not any(assembler.add(record) for record in late), "its other piece was given up"


def test_an_epoch_of_two_ranks_is_in_nobodys_way_when_one_rank_goes_on() -> None:
    assembler = Assembler(["sam"])
    for record in split(pieces_of(update(7, epoch=1), 2)[1], 400):
        assembler.add(record)
    whole = [assembler.add(record) for record in split(update(1, epoch=2), 400)]
    assert_equal(whole[-1] or update(), update(1, epoch=2))


def test_pieces_that_are_not_of_one_update_are_refused() -> None:
    first, second = pieces_of(update(), 2)
    for other in (
        replace(second, fingerprint="another"),
        replace(second, tensors={**second.tensors, "category/keys": np.zeros(0, np.uint64)}),
        replace(second, tensors={**second.tensors, "item/values": np.zeros((3, 9), np.float32)}),
    ):
        assembler = Assembler(["sam"])
        [one], [two] = split(first, 100_000), split(other, 100_000)
        assembler.add(one)
        assert refusal(lambda two=two, assembler=assembler: assembler.add(two)) == "malformed"  # type: ignore[misc]


@pytest.mark.parametrize("changes", [{"piece": 2}, {"piece": 1, "pieces": 1}, {"pieces": 1000}, {"piece": -1}])
def test_impossible_pieces_are_refused(changes: dict[str, int]) -> None:
    [record] = split(pieces_of(update(), 2)[0], 100_000)
    forged = msgspec.structs.replace(msgspec.msgpack.decode(record, type=PiecePart), **changes)
    assert refusal(lambda: Assembler(["sam"]).add(msgspec.msgpack.encode(forged))) == "malformed"


def test_what_one_rank_publishes_are_the_bytes_of_before() -> None:
    [record] = split(update(), 100_000)
    assert len(msgspec.msgpack.decode(record)) == 9
