"""The newest behaviours alone."""

import pytest
import torch

from model.interest.newest import Newest
from tests.model.interest.drawn import LENGTHS, drawn


@pytest.mark.parametrize("recent", [1, 3, 4, 9, 20])
def test_the_newest_of_every_user_stay_in_order(recent: int) -> None:
    keys, mask, _, match, known = drawn()
    newest = Newest.of(mask, recent)
    read, logits, ages = newest.keys(keys), newest.match(match), newest.known(known.ages)
    assert logits is not None
    assert read.shape[1] == min(recent, max(LENGTHS))
    assert read.isfinite().all()
    for user, length in enumerate(LENGTHS):
        kept = min(recent, length)
        there = slice(length - kept, length)
        assert newest.mask[user].tolist() == [True] * kept + [False] * (read.shape[1] - kept)
        assert torch.equal(read[user, :kept], keys[user, there])
        assert not read[user, kept:].any()
        assert torch.equal(logits[user, :, :kept], match[user, :, there])
        assert torch.equal(ages[user, :kept], known.ages[user, there])
        assert newest.ranks[user, :kept].tolist() == list(range(kept))[::-1]


def test_no_behaviour_at_all_is_one_padded_place() -> None:
    keys, mask, _, match, known = drawn(lengths=(0, 0))
    newest = Newest.of(mask, 5)
    assert newest.mask.tolist() == [[False], [False]]
    assert newest.keys(keys).tolist() == [[[0.0] * 6]] * 2
    assert newest.known(known.ages).tolist() == [[0], [0]]
    assert newest.match(match).shape == (2, 3, 1)  # type: ignore[union-attr]
    assert newest.match(None) is None
