"""Samples as they are read from Kafka, and a model that cannot learn one of them."""

from typing import Any

import msgspec
import numpy as np

from stream.schema.events import Sample, decode_sample, encode_packed
from stream.trainer.training import ArmTrainer
from tests.model.learning import examples


def sample(request_id: str = "r", *items: int, **changes: Any) -> Sample:
    """A sample of these item keys, of which the last was clicked, as it is read from Kafka."""
    items = items or (1, 2, 3)
    [example] = examples(1, seed=7)
    made = Sample(
        request_id=request_id,
        user="u",
        arm="own",
        ts=10**9,
        epoch=1,
        version=2,
        clicked_at=77,
        sequence=example.sequence.tobytes(),
        items=np.array(items, "<u8").tobytes(),
        categories=np.arange(len(items), dtype="<u4").tobytes(),
        positions=np.arange(len(items), dtype="<u2").tobytes(),
        probabilities=np.full(len(items), 0.5, "<f4").tobytes(),
        labels=np.array([0] * (len(items) - 1) + [1], "<u1").tobytes(),
    )
    return decode_sample(encode_packed(msgspec.structs.replace(made, **changes)))


def poisoned(trainer: ArmTrainer, key: int) -> None:
    """Let the vector of one item be so large that no step on it is finite."""
    state = trainer.learner.state() | {
        "item/keys": np.array([key], np.uint64),
        "item/vectors": np.full((1, 4), 3e38, np.float32),
        "item/sums": np.zeros(1, np.float32),
        "item/touched": np.zeros(1, np.bool_),
    }
    trainer.learner.load_state(state)
