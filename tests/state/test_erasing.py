"""Users erased in a state: the bytes leave the files while others are written, and what is erased stays erased."""

import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.partition import Partition
from tests.state.support import dump, holds, records, wait_until_gone

GONE = "gone-4711"


def opened(path: Path) -> Partition:
    return Partition.open(path, length=100, slack=28, cache_bytes=20_000)


def test_an_erased_user_begins_at_nothing_before_and_after_the_commit(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "state")) as partition:
        partition.sequences.append(GONE, records(0, 200))
        partition.commit({"b": 1})
        assert partition.erase([GONE, "nobody"]) == 1
        assert (partition.sequences.count(GONE), len(partition.sequences.read(GONE))) == (0, 0)
        partition.sequences.append(GONE, records(200, 203))
        partition.commit({"b": 2})
        assert partition.sequences.count(GONE) == 3
    with closing(opened(tmp_path / "state")) as partition:
        assert partition.sequences.read(GONE).tobytes() == records(200, 203).tobytes()


def test_a_view_that_was_handed_out_stays_as_it_was(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "state")) as partition:
        partition.sequences.append(GONE, records(0, 50))
        view = partition.sequences.read(GONE)
        partition.erase([GONE])
        partition.sequences.append(GONE, records(50, 99))
        assert view.tobytes() == records(0, 50).tobytes()


@pytest.mark.long
@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 90), st.sampled_from(["append", "erase", "commit"]))))
def test_what_is_left_is_as_if_the_rest_had_never_been(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, str]]
) -> None:
    path, plain = (tmp_path_factory.mktemp("states") / name for name in ("erased", "plain"))
    expected: dict[str, list[tuple[int, int]]] = {}
    with closing(opened(path)) as partition:
        for number, (who, count, what) in enumerate(steps):
            user = f"user-{who}"
            if what == "append":
                partition.sequences.append(user, records(100 * number, 100 * number + count))
                expected.setdefault(user, []).append((100 * number, 100 * number + count))
            elif what == "erase":
                partition.erase([user])
                expected.pop(user, None)
            else:
                partition.commit({"b": number})
        partition.commit({"b": len(steps)})
        partition.purge()
    with closing(opened(plain)) as partition:
        for user, spans in expected.items():
            for start, stop in spans:
                partition.sequences.append(user, records(start, stop))
        partition.commit({"b": len(steps)})
    assert dump(path) == dump(plain)


def test_others_are_written_while_the_bytes_of_one_leave_the_files(tmp_path: Path) -> None:
    path, stop = tmp_path / "state", threading.Event()
    with closing(opened(path)) as partition:
        for number in range(30):
            partition.sequences.append(GONE, records(number, number + 1))
            partition.pending.put(f"i9:{GONE}{number}", GONE.encode())
            partition.sequences.append("other", records(100 + number, 101 + number))
            partition.pending.delete(f"i9:{GONE}{number}")
            partition.commit({"b": number})
        partition.erase([GONE])
        partition.commit({"b": 30})

        def purging() -> None:
            partition.purge()
            stop.set()

        purge = threading.Thread(target=purging)
        purge.start()
        number = 30
        while not stop.is_set():
            partition.sequences.append("other", records(100 + number, 101 + number))
            partition.commit({"b": number + 1})
            number += 1
        purge.join()
        assert not partition.unpurged
        wait_until_gone(path, GONE.encode())
        assert partition.sequences.count("other") == number
    with closing(opened(path)) as partition:
        assert (
            partition.sequences.read("other").tobytes() == records(100 + max(0, number - 100), 100 + number).tobytes()
        )


def test_many_users_go_at_once_and_a_closed_state_is_left_as_it_is(tmp_path: Path) -> None:
    users = [f"{GONE}-{number}" for number in range(300)]
    partition = opened(tmp_path / "state")
    for user in users:
        partition.sequences.append(user, records(0, 70))
    partition.sequences.append("other", records(0, 3))
    partition.commit({"b": 1})
    partition.erase(users)
    partition.commit({"b": 2})
    partition.close()
    partition.purge()
    assert holds(tmp_path / "state", GONE.encode())
    with closing(opened(tmp_path / "state")) as partition:
        partition.purge()
        assert not partition.unpurged
    assert not holds(tmp_path / "state", GONE.encode())
    assert holds(tmp_path / "state", b"other")
