"""Two ranks learn what one learns of both batches together: uneven, empty, with admission, expiry and what diverges."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.distributed.ranks import Ranks
from model.embedding.shards import SHARDS, Rank, TableState, merged_states, owners, part_of
from model.example import LATE_CLICK, Example
from model.learner import Learner
from model.peers import ALONE, Peers, WholeStep
from model.scorer import Scorer
from model.serialization.parts import Assembler, split
from model.serialization.update import Tensors
from model.spec import ModelSpec, OptimSpec
from stream.bench.harness.rank_pool import RankPool
from tests.model.learning import examples, small

pytestmark = pytest.mark.xdist_group("ranks")  # one pair of ranks for all

CLOSE = 1e-5
Steps = Sequence[Sequence[Example]]


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    pool = RankPool(2, wait_s=240.0)
    yield pool
    pool.close()


class Learned(NamedTuple):
    """What came of some steps."""

    predictions: list[list[npt.NDArray[np.float32]]]
    state: Tensors
    digest: str
    skipped: int


def unpickled(spec: ModelSpec) -> ModelSpec:
    """Return a spec that came through a pipe as one that was read: msgspec leaves out defaults that are its own."""
    return msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec)


def learn(
    peers: Peers,
    spec: ModelSpec,
    optim: OptimSpec,
    steps: Steps,
    wholes: Sequence[WholeStep | None],
    begin: Tensors | None = None,
) -> Learned:
    learner = Learner(unpickled(spec), optim, seed=3, peers=peers)
    if begin is not None:
        learner.load_state(begin)
    predictions = [learner.learn(batch, whole) for batch, whole in zip(steps, wholes, strict=True)]
    return Learned(predictions, learner.state(), learner.dense_digest(), learner.skipped)


def both(steps: Sequence[Steps]) -> list[list[Example]]:
    """Return the batches of all ranks, each step as one."""
    return [[example for batch in of_step for example in batch] for of_step in zip(*steps, strict=True)]


def wholes(steps: Sequence[Steps]) -> list[WholeStep]:
    return [
        WholeStep(sum(len(each.items) for each in batch), max((each.ts for each in batch), default=0))
        for batch in both(steps)
    ]


def together(
    pool: RankPool, spec: ModelSpec, optim: OptimSpec, steps: Sequence[Steps], begin: Tensors | None = None
) -> tuple[list[list[npt.NDArray[np.float32]]], Tensors, int]:
    """Let all ranks learn; returns predictions of each step, the state of all, and the steps skipped."""
    whole = wholes(steps)
    found: list[Learned] = pool.run(learn, [(spec, optim, batches, whole, begin) for batches in steps])
    assert len({each.digest for each in found}) == 1, "the dense parameters are the same on all ranks, to the bit"
    assert len({each.skipped for each in found}) == 1
    steps_of = zip(*(each.predictions for each in found), strict=True)
    predictions = [list(chain.from_iterable(of_step)) for of_step in steps_of]
    return predictions, merged_states([each.state for each in found]), found[0].skipped


def differences(one: Tensors, other: Tensors) -> dict[str, float]:
    """Return what two states differ in: rows by key, since their order means nothing; sketches and clocks apart."""
    assert one.keys() == other.keys()
    tables = {name.removesuffix("/rows") for name in one if name.endswith("/rows")}
    differing: dict[str, float] = {}
    for table in tables:
        orders = [np.argsort(state[f"{table}/keys"]) for state in (one, other)]
        assert np.array_equal(one[f"{table}/keys"][orders[0]], other[f"{table}/keys"][orders[1]]), table
        for part in ("vectors", "sums", "touched", "published", "times"):
            ours, theirs = (
                state[f"{table}/{part}"][order].astype(np.float64)
                for state, order in zip((one, other), orders, strict=True)
            )
            differing[f"{table}/{part}"] = float(np.abs(ours - theirs).max(initial=0.0))
        for part in ("clock", "counts", "gone"):
            assert np.array_equal(np.sort(one[f"{table}/{part}"]), np.sort(other[f"{table}/{part}"])), (table, part)
    for name in one:
        if name.rpartition("/")[0] not in tables and one[name].dtype.kind == "f":
            differing[name] = float(np.abs(one[name] - other[name]).max(initial=0.0))
    return {name: size for name, size in differing.items() if size > CLOSE}


def check(pool: RankPool, spec: ModelSpec, optim: OptimSpec, steps: Sequence[Steps]) -> Tensors:
    """See that two ranks come to what one comes to on merged batches; returns their state."""
    predictions, state, skipped = together(pool, spec, optim, steps)
    batches = both(steps)
    alone = learn(ALONE, spec, optim, batches, [None if batch else WholeStep(0, 0) for batch in batches])
    for ours, theirs in zip(predictions, alone.predictions, strict=True):
        np.testing.assert_allclose(np.concatenate([*ours, []]), np.concatenate([*theirs, []]), atol=CLOSE)
    assert skipped == alone.skipped
    assert not differences(state, alone.state)
    return state


def moved(batch: Sequence[Example], ts: int) -> list[Example]:
    return [dataclasses.replace(example, ts=ts) for example in batch]


sizes = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=5)


# The same examples each time: where a gradient cancels out but for rounding, Adam makes whole steps of what is left.
@pytest.mark.parametrize(
    "kind",
    [
        "sam",
        "counts",
        "popularity",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("din", "mean", "random")),
    ],
)
@settings(max_examples=12, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes, st.integers(0, 1000))
def test_two_ranks_equal_one_on_merged_batches(
    pool: RankPool, kind: str, counts: list[tuple[int, int]], seed: int
) -> None:
    steps = [[examples(of[rank], seed=seed * 100 + 10 * n + rank) for n, of in enumerate(counts)] for rank in (0, 1)]
    check(pool, small(kind), OptimSpec(), steps)


@pytest.mark.long
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 40)), min_size=3, max_size=8))
def test_keys_are_admitted_and_expire_as_on_one_rank(pool: RankPool, plan: list[tuple[int, int, int]]) -> None:
    optim = OptimSpec(admit_after=3, admission_keys=2**12, expire_after_s=60.0)
    steps: list[list[list[Example]]] = [[], []]
    now = 10**9
    for number, (first, second, passed_s) in enumerate(plan):
        now += 1000 * passed_s
        for rank, count in enumerate((first, second)):
            # The ranks' clocks differ: what is newest of all is what counts.
            steps[rank].append(moved(examples(count, seed=10 * number + rank), now - 5000 * rank))
    check(pool, small("din"), optim, steps)


def test_what_expires_is_gone_on_the_rank_that_owned_it(pool: RankPool) -> None:
    optim = OptimSpec(expire_after_s=60.0)
    old, new = examples(6, seed=1), moved(examples(2, seed=2, catalogue=8), 10**9 + 100_000)
    state = check(pool, small("mean"), optim, [[old, [], new], [examples(6, seed=3), [], []]])
    assert state["item/counts"][2] > 0, "something expired"


def test_a_full_table_stays_within_its_rows(pool: RankPool) -> None:
    optim = OptimSpec(max_rows=20)
    steps = [[examples(6, seed=10 * n + rank) for n in range(6)] for rank in (0, 1)]
    _, state, _ = together(pool, small("din"), optim, steps)
    assert 0 < len(state["item/keys"]) <= 20
    assert state["item/counts"][3] > 0, "something was evicted"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["dare", "dien", "longvq", "sim-soft", "rnn-search", "mimn"])
def test_models_that_add_to_the_loss_or_observe_take_the_same_steps_on_all_ranks(pool: RankPool, kind: str) -> None:
    spec = small(kind)
    steps = [[examples(count, seed=10 * n + rank) for n, count in enumerate(of)] for rank, of in
             enumerate([(4, 0, 3, 1), (2, 5, 0, 1)])]  # fmt: skip
    _, state, skipped = together(pool, spec, OptimSpec(), steps)
    assert not skipped
    assert all(np.isfinite(each).all() for each in state.values() if each.dtype.kind == "f")
    if kind in ("dare", "sim-soft"):  # their loss is a mean over labels, as the step is
        check(pool, spec, OptimSpec(), steps)


def test_late_clicks_and_places_weigh_as_on_one_rank(pool: RankPool) -> None:
    spec = msgspec.structs.replace(small("din"), position=True)

    def shown(count: int, seed: int) -> list[Example]:
        made = []
        for example in examples(count, seed=seed):
            places = np.arange(len(example.items), dtype=np.uint16)
            labels = np.where(places == 0, LATE_CLICK, places % 2).astype(np.float32)
            made.append(dataclasses.replace(example, labels=labels, positions=places))
        return made

    check(pool, spec, OptimSpec(), [[shown(3, 1), [], shown(2, 5)], [shown(1, 2), shown(4, 3), []]])


def test_a_step_that_is_not_finite_on_one_rank_is_left_out_on_all(pool: RankPool) -> None:
    good, bad = examples(3, seed=1), examples(2, seed=2)
    spoilt = [dataclasses.replace(each, labels=np.full(len(each.items), np.nan, np.float32)) for each in bad]
    steps = [[good, good, good], [bad, spoilt, bad]]
    _, state, skipped = together(pool, small("sam"), OptimSpec(), steps)
    assert skipped == 1
    expected = learn(ALONE, small("sam"), OptimSpec(), [good + bad, good + spoilt, good + bad], [None] * 3)
    assert expected.skipped == 1
    assert not differences(state, expected.state)


def frozen_predictions(ranks: Ranks, spec: ModelSpec, state: Tensors, batch: Sequence[Example]) -> Any:
    learner = Learner(unpickled(spec), seed=3, peers=ranks)
    learner.load_state(state)
    return learner.predict(batch)


def test_a_rank_predicts_with_the_rows_of_others_and_an_empty_one_helps(pool: RankPool) -> None:
    spec, asked = small("din"), examples(4, seed=9)
    taught = learn(ALONE, spec, OptimSpec(), [examples(8, seed=n) for n in range(5)], [None] * 5)
    alone = Learner(spec, seed=3)
    alone.load_state(taught.state)
    found, nothing = pool.run(frozen_predictions, [(spec, taught.state, asked), (spec, taught.state, [])])
    assert nothing == []
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(alone.predict(asked)), atol=CLOSE)


@pytest.mark.parametrize("kind", ["sam", "din", "mean"])
def test_one_rank_goes_on_from_two_and_two_from_one(pool: RankPool, kind: str) -> None:
    spec, optim = small(kind), OptimSpec(admit_after=2, admission_keys=2**12, expire_after_s=3600.0)
    lives = [
        [[examples(3, seed=100 * life + 10 * n + rank) for n in range(4)] for rank in (0, 1)] for life in (0, 1, 2)
    ]
    begin = learn(ALONE, spec, optim, both(lives[0]), [None] * 4).state
    _, middle, _ = together(pool, spec, optim, lives[1], begin)
    end = learn(ALONE, spec, optim, both(lives[2]), [None] * 4, middle).state
    expected = learn(ALONE, spec, optim, [batch for life in lives for batch in both(life)], [None] * 12).state
    assert not differences(end, expected)


def test_a_table_that_is_fuller_than_an_owner_may_have_keeps_what_was_touched_last() -> None:
    keys = np.arange(1, 101, dtype=np.uint64)
    state: TableState = {
        "keys": keys,
        "rows": np.arange(100, dtype=np.int32),
        "vectors": np.zeros((100, 4), np.float32),
        "sums": np.zeros(100, np.float32),
        "touched": np.zeros(100, np.bool_),
        "published": np.ones(100, np.bool_),
        "times": np.arange(100),
        "gone": np.array([500, 501], np.uint64),
        "counts": np.arange(5),
        "clock": np.array([99, 99]),
    }
    parts = [part_of(state, Rank(number, 3), 20) for number in range(3)]
    for number, part in enumerate(parts):
        own = keys[owners(keys, 3) == number]
        assert part["keys"].tolist() == own[-20:].tolist()
        assert set(part["gone"].tolist()) >= set(own[:-20].tolist()), "workers are told"
    assert sum(part["counts"].sum() for part in parts) == 10
    assert {key for part in parts for key in part["gone"].tolist()} >= {500, 501}


def test_every_shard_is_owned_and_none_is_much_larger() -> None:
    keys = np.random.default_rng(0).integers(1, 2**63, 64_000).astype(np.uint64)
    assert set(owners(keys, 512).tolist()) == set(range(SHARDS))
    shares = np.bincount(owners(keys, 4), minlength=4) / len(keys)
    assert (np.abs(shares - 0.25) < 0.02).all()


def publish(ranks: Ranks, spec: ModelSpec, steps: Steps, wholes: Sequence[WholeStep]) -> list[bytes]:
    learner, records = Learner(unpickled(spec), OptimSpec(expire_after_s=60.0), seed=3, peers=ranks), []
    learner.begin_epoch(1)
    records += split(learner.base("a"), 5000)
    for batch, whole in zip(steps, wholes, strict=True):
        learner.learn(batch, whole)
        records += split(learner.delta("a"), 5000)
    return records + split(learner.base("a"), 5000)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sam", "din", "mean"])
def test_a_scorer_serves_what_two_ranks_publish_as_what_one_does(pool: RankPool, kind: str) -> None:
    spec = small(kind)
    steps = [[moved(examples(3, seed=10 * n + rank), 10**9 + 40_000 * n) for n in range(5)] for rank in (0, 1)]
    whole = wholes(steps)
    first, second = pool.run(publish, [(spec, batches, whole) for batches in steps])
    scorer, assembler = Scorer(spec, seed=3), Assembler(["a"])
    alone = Learner(spec, OptimSpec(expire_after_s=60.0), seed=3)
    for batch in both(steps):
        alone.learn(batch)
    updates = [update for record in (*second, *first) if (update := assembler.add(record)) is not None]
    *deltas, base = updates
    assert [update.kind for update in updates] == ["base", *["delta"] * 5, "base"]
    assert any("item/gone" in update.tensors for update in deltas)
    for update in deltas:
        scorer.apply(update)
    asked = examples(5, seed=77)
    expected = np.concatenate(alone.predict(asked))
    np.testing.assert_allclose(np.concatenate(scorer.score(asked)), expected, atol=CLOSE)
    fresh = Scorer(spec, seed=3)
    fresh.apply(base)
    assert fresh.rows == scorer.rows == alone.rows
    np.testing.assert_array_equal(np.concatenate(fresh.score(asked)), np.concatenate(scorer.score(asked)))
