"""Collation: what is cut, where it lands, what fills the rest."""

import numpy as np
import pytest
import torch

from model.batch import GAP_BUCKETS, collate, gap_bucket
from tests.model.worlds import example

RNG = np.random.default_rng(0)


def test_sequences_are_cut_to_their_newest_and_left_aligned() -> None:
    examples = [example(RNG, 7, 2), example(RNG, 3, 4), example(RNG, 0, 1)]
    batch = collate(examples, length=5)
    assert batch.mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2, [False] * 5]
    assert batch.target_mask.sum(dim=1).tolist() == [2, 4, 1]
    for row, (kept, one) in enumerate(zip((5, 3, 0), examples, strict=True)):
        newest = one.sequence[len(one.sequence) - kept :]
        assert batch.history_items[row, :kept].numpy().view(np.uint64).tolist() == newest["item"].tolist()
        assert batch.history_categories[row, :kept].tolist() == newest["category"].tolist()
        assert batch.history_actions[row, :kept].tolist() == newest["action"].tolist()
        assert batch.gap_buckets[row, :kept].tolist() == gap_bucket(one.ts - newest["ts"]).tolist()
        count = len(one.items)
        assert batch.target_items[row, :count].numpy().view(np.uint64).tolist() == one.items.tolist()
        assert batch.target_categories[row, :count].tolist() == one.categories.tolist()
        assert one.labels is not None
        assert batch.labels is not None
        assert batch.labels[row, :count].tolist() == one.labels.tolist()


def test_what_is_padded_holds_key_zero() -> None:
    batch = collate([example(RNG, 4, 3), example(RNG, 1, 1)], length=9)
    assert not batch.history_items[~batch.mask].any()
    assert not batch.history_categories[~batch.mask].any()
    assert not batch.history_actions[~batch.mask].any()
    assert not batch.target_items[~batch.target_mask].any()


def test_an_empty_history_has_one_padded_position() -> None:
    batch = collate([example(RNG, 0, 1)], length=1000)
    assert batch.mask.tolist() == [[False]]
    assert batch.target_items.shape == (1, 1)


def test_labels_are_absent_as_soon_as_one_example_has_none() -> None:
    assert collate([example(RNG, 2, 2), example(RNG, 2, 2, labelled=False)], length=5).labels is None


def test_the_examples_are_left_as_they_were() -> None:
    one = example(RNG, 6, 2)
    one.sequence.flags.writeable = False
    before = one.sequence.copy()
    batch = collate([one], length=4)
    batch.history_items.zero_()
    assert (one.sequence == before).all()


def test_no_example_is_an_error() -> None:
    with pytest.raises(ValueError, match="no examples"):
        collate([], length=5)


def test_gap_buckets_rise_with_the_gap_and_stay_in_range() -> None:
    gaps = np.array([-(2**40), -1, 0, 400, 1_000, 60_000, 86_400_000, 30 * 86_400_000, 2**48, 2**62])
    buckets = gap_bucket(gaps)
    assert buckets.tolist() == sorted(buckets.tolist())
    assert buckets[:4].tolist() == [0, 0, 0, 0]
    assert buckets.max() == GAP_BUCKETS - 1
    assert len(set(buckets[4:9].tolist())) == 5


def test_tensors_land_on_the_device_asked_for() -> None:
    batch = collate([example(RNG, 2, 2)], length=5, device=torch.device("meta"))
    assert batch.history_items.device.type == batch.mask.device.type == "meta"
