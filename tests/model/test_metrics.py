"""Metrics against brute force, and the streaming forms against the exact ones."""

import math

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.example import LATE_CLICK
from model.metrics import ProgressiveMetrics, auc, calibration, gauc, log_loss, normalised_entropy

Array = npt.NDArray[np.float64]

samples = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 8).map(lambda tenth: tenth / 8), st.integers(0, 3)),
    max_size=60,
)


def pair_auc(labels: Array, predictions: Array) -> float:
    """Count, over all pairs of a positive and a negative, how often the positive is above."""
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0 for p in predictions[labels == 1] for n in predictions[labels == 0]
    ]
    return sum(pairs) / len(pairs) if pairs else math.nan


def columns(rows: list[tuple[int, float, int]]) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    table = np.array(rows, np.float64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2].astype(np.int64)


@given(samples)
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, float, int]]) -> None:
    labels, predictions, _ = columns(rows)
    assert auc(labels, predictions) == pytest.approx(pair_auc(labels, predictions), nan_ok=True)


@given(samples)
def test_gauc_weighs_the_users_that_have_both_labels_by_their_samples(
    rows: list[tuple[int, float, int]],
) -> None:
    labels, predictions, users = columns(rows)
    weighted, weight = 0.0, 0
    for user in range(4):
        of_user = users == user
        area = pair_auc(labels[of_user], predictions[of_user])
        if not math.isnan(area):
            weighted += area * of_user.sum()
            weight += of_user.sum()
    expected = weighted / weight if weight else math.nan
    assert gauc(labels, predictions, users) == pytest.approx(expected, nan_ok=True)
    assert gauc(labels, predictions, users.astype(str)) == pytest.approx(expected, nan_ok=True)


def test_log_loss_ne_and_calibration_of_a_worked_example() -> None:
    labels, predictions = np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.5, 0.25, 0.25, 0.5])
    loss = -(2 * math.log(0.5) + 2 * math.log(0.75)) / 4
    assert log_loss(labels, predictions) == pytest.approx(loss)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert normalised_entropy(labels, predictions) == pytest.approx(loss / entropy)
    assert calibration(labels, predictions) == pytest.approx(1.5)


def test_predicting_the_mean_has_ne_one_and_certain_mistakes_stay_finite() -> None:
    labels = np.array([1.0, 0.0, 0.0, 0.0, 1.0], np.float32)
    assert normalised_entropy(labels, np.full(5, 0.4, np.float32)) == pytest.approx(1.0)
    certain = (1 - labels).astype(np.float32)
    assert math.isfinite(log_loss(labels, certain))
    progressive = ProgressiveMetrics()
    progressive.add(labels, certain)
    assert progressive.total().log_loss == pytest.approx(log_loss(labels, certain))
    assert progressive.total().auc == 0.0


@pytest.mark.parametrize("labels", [np.zeros(0), np.zeros(3), np.ones(3)])
def test_what_the_data_do_not_define_is_nan(labels: Array) -> None:
    predictions = np.linspace(0.1, 0.9, len(labels))
    assert math.isnan(auc(labels, predictions))
    assert math.isnan(gauc(labels, predictions, np.arange(len(labels))))
    assert math.isnan(normalised_entropy(labels, predictions))


def stream(seed: int, n: int, rate: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(math.log(rate / (1 - rate)), 1.0, n)
    truth = 1 / (1 + np.exp(-logits))
    return (rng.random(n) < truth).astype(np.float32), truth.astype(np.float32)


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.5])
def test_the_streaming_metrics_equal_the_exact_ones(rate: float) -> None:
    labels, predictions = stream(1, 40_000, rate)
    progressive = ProgressiveMetrics(window=10_000)
    for start in range(0, 40_000, 123):
        progressive.add(labels[start : start + 123], predictions[start : start + 123])
    total = progressive.total()
    assert (total.samples, total.positives) == (40_000, int(labels.sum()))
    assert total.auc == pytest.approx(auc(labels, predictions), abs=1e-3)
    assert total.log_loss == pytest.approx(log_loss(labels, predictions))
    assert total.ne == pytest.approx(normalised_entropy(labels, predictions))
    assert total.calibration == pytest.approx(calibration(labels, predictions))


def test_predictions_in_one_bin_count_as_ties() -> None:
    progressive = ProgressiveMetrics()
    progressive.add(np.array([1.0, 0.0, 0.0, 1.0]), np.full(4, 0.3))
    assert progressive.total().auc == 0.5


def test_the_last_window_forgets_what_came_before_it() -> None:
    labels, good = stream(2, 6_000, 0.3)
    progressive = ProgressiveMetrics(window=2_000)
    progressive.add(labels[:1_000], 1 - good[:1_000])
    assert progressive.last_window() == progressive.total()
    for start in range(0, 6_000, 500):
        bad = start < 4_000
        part = slice(start, start + 500)
        progressive.add(labels[part], 1 - good[part] if bad else good[part])
    # Windows close at 2,000 samples: the newest full one has the last 1,000 bad and the first 1,000 good.
    assert progressive.last_window().samples == 2_000
    assert progressive.last_window().auc > progressive.total().auc


def test_a_restored_accumulator_goes_on_as_the_one_that_was_saved() -> None:
    labels, predictions = stream(3, 3_000, 0.1)
    whole, first = ProgressiveMetrics(window=1_100), ProgressiveMetrics(window=1_100)
    for accumulator in (whole, first):
        accumulator.add(labels[:1_500], predictions[:1_500])
    saved = msgspec.json.decode(msgspec.json.encode(first.to_dict()))
    second = ProgressiveMetrics.from_dict(saved)
    for accumulator in (whole, second):
        accumulator.add(labels[1_500:], predictions[1_500:])
    assert second.total() == whole.total()
    assert second.last_window() == whole.last_window()


def test_a_late_click_moves_its_sample_to_the_clicked_ones() -> None:
    rng = np.random.default_rng(1)
    predictions = rng.random(5000)
    labels = (rng.random(5000) < predictions).astype(np.float64)
    late = (labels == 1) & (rng.random(5000) < 0.5)
    expected, moved = ProgressiveMetrics(), ProgressiveMetrics()
    expected.add(labels, predictions)
    moved.add(np.where(late, 0.0, labels), predictions)
    moved.add(np.full(late.sum(), LATE_CLICK), predictions[late])
    for one, other in ((expected.total(), moved.total()), (expected.last_window(), moved.last_window())):
        assert msgspec.structs.astuple(one) == pytest.approx(msgspec.structs.astuple(other), rel=1e-9)


def test_predictions_that_are_no_numbers_are_counted_and_left_out() -> None:
    progressive = ProgressiveMetrics()
    progressive.add(np.array([1.0, 0.0, 1.0]), np.array([0.9, 0.1, np.nan]))
    assert (progressive.total().samples, progressive.total().invalid) == (2, 1)
    assert progressive.total().auc == 1.0
