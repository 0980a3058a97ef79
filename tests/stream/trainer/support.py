"""Some arms in training, samples as they are read from Kafka, and a model that cannot learn one of them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from model.example import Example
from state.behavior import checksum
from stream.schema.dedup import sample_ids
from stream.schema.events import RequestKey, Sample, SequenceName, decode_sample, encode_packed
from stream.settings import Settings, convert
from stream.trainer.arm_trainer import ArmTrainer
from stream.trainer.examples import TrainingExample
from stream.trainer.training import Training
from tests.model.learning import examples

SMALL = {"item_dim": 4, "category_dim": 4, "statistics": ()}
ARMS: list[dict[str, Any]] = [
    {"name": "own", "preset": "sam-10", "model": SMALL},
    {"name": "all", "preset": "counts-10", "model": {"statistics": ()}, "learn_from": "all"},
    {"name": "frozen", "preset": "din-10", "model": SMALL, "learn": False},
]
SEQUENCE = examples(1, seed=7)[0].sequence
"""What `sample` names."""


def settings(arms: Sequence[dict[str, Any]] = ARMS, **trainer: Any) -> Settings:
    return convert({"arms": arms, "trainer": trainer})


def training(arms: Sequence[dict[str, Any]] = ARMS, **trainer: Any) -> Training:
    return Training(settings(arms, **trainer), device="cpu")


def training_examples(arm: str, count: int = 8, *, seed: int = 0) -> list[TrainingExample]:
    return [
        TrainingExample(
            arm,
            f"user-{number}",
            f"{arm}-{seed}",
            1000 + number if number % 2 else 0,
            example,
            sample_ids(RequestKey(f"user-{number}", "r"), example.items),
        )
        for number, example in enumerate(examples(count, seed=seed))
    ]


def sample(request_id: str = "r", *items: int, **changes: Any) -> Sample:
    """A sample of these item keys, of which the last was clicked, as it is read from Kafka."""
    items = items or (1, 2, 3)
    made = Sample(
        request_id=request_id,
        user="u",
        arm="own",
        ts=10**9,
        epoch=1,
        version=2,
        clicked_at=77,
        sequence=SequenceName(len(SEQUENCE), 40, checksum(SEQUENCE)),
        items=np.array(items, "<u8").tobytes(),
        categories=np.arange(len(items), dtype="<u4").tobytes(),
        positions=np.arange(len(items), dtype="<u2").tobytes(),
        labels=np.array([0] * (len(items) - 1) + [1], "<u1").tobytes(),
    )
    return decode_sample(encode_packed(msgspec.structs.replace(made, **changes)))


def poisoned(trainer: ArmTrainer, key: int) -> None:
    """Let the vector of one item be so large that no step on it is finite."""
    state = trainer.learner.state() | {
        "item/keys": np.array([key], np.uint64),
        "item/rows": np.zeros(1, np.int32),
        "item/vectors": np.full((1, 4), 3e38, np.float32),
        "item/sums": np.zeros(1, np.float32),
        "item/touched": np.zeros(1, np.bool_),
        "item/published": np.zeros(1, np.bool_),
        "item/times": np.zeros(1, np.int64),
    }
    trainer.learner.load_state(state)


def labels(example: Example) -> list[float]:
    assert example.labels is not None
    found: list[float] = example.labels.tolist()
    return found
