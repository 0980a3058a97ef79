"""KuaiRand-Pure (Gao et al., CIKM 2022; CC BY-SA 4.0): real impressions of short videos with true clicks.

The log has one line for each exposure. Lines of one user and millisecond were shown together: they are one
impression, and the same video repeated is one exposure. Every exposure is a behaviour with action `click` or `skip`.
Exposures before the log have neither click nor time: they get action `view` and times six hours apart before the log,
which keeps their order and is close to the median gap within the log (nine hours).
"""

import csv
import lzma
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stream.datasets.base import DatasetError, DatasetTotals, Observation, Step, Visit, require_files
from stream.schema.events import Behavior, Candidate, Click, Impression

HISTORY_GAP_MS = 6 * 3600 * 1000

Exposures = dict[str, bool]
"""Video → whether it was clicked, in the order of the log."""


class KuaiRand:
    """Histories first, then the impressions in time order.

    Args:
        impressions: (time in ms, user, video, clicked) for each exposure, in any order.
        history: (N, 3) int64: user, position (0 the oldest), video; exposures before all impressions.
        tags: video → tag, its category; a video without an entry has no category.

    Raises:
        DatasetError: when there are no impressions.
    """

    name = "kuairand"

    def __init__(
        self,
        impressions: list[tuple[int, int, str, bool]],
        history: npt.NDArray[np.int64],
        tags: dict[str, str],
    ) -> None:
        if not impressions:
            raise DatasetError("the data set has no impressions")
        self._tags = tags
        self._visits: list[tuple[int, str, Exposures]] = []
        for (ts, user), shown in groupby(sorted(impressions, key=itemgetter(0, 1)), key=itemgetter(0, 1)):
            exposures: Exposures = {}
            for _, _, video, clicked in shown:
                exposures[video] = clicked or exposures.get(video, False)
            self._visits.append((ts, str(user), exposures))
        self._history = self._dated(history, before=self._visits[0][0])
        samples = sum(len(exposures) for _, _, exposures in self._visits)
        self.totals = DatasetTotals(
            behaviors=len(self._history) + samples,
            visits=len(self._visits),
            samples=samples,
            positives=sum(sum(exposures.values()) for _, _, exposures in self._visits),
        )

    @staticmethod
    def _dated(history: npt.NDArray[np.int64], *, before: int) -> npt.NDArray[np.int64]:
        """Return (N, 3) time, user, video in order of time; each user's newest is one gap before `before`."""
        users, positions, videos = history.T
        known, codes = np.unique(users, return_inverse=True)
        newest = np.full(len(known), -1, dtype=np.int64)
        np.maximum.at(newest, codes, positions)
        times = before - (newest[codes] + 1 - positions) * HISTORY_GAP_MS
        order = np.lexsort((users, times))
        return np.stack((times, users, videos), axis=1)[order]

    def steps(self) -> Iterator[Step]:
        """Yield an `Observation` for each exposure of the histories, then a `Visit` for each impression."""
        for row in self._history:
            ts, user, video = row.tolist()
            yield Observation((self._behavior(str(user), str(video), ts, "view"),))
        for ts, user, exposures in self._visits:
            request_id = f"kr-{user}-{ts}"
            candidates = [Candidate(video, self._tags.get(video, "")) for video in exposures]
            clicked = [video for video, is_clicked in exposures.items() if is_clicked]
            yield Visit(
                Impression(request_id, user, ts, candidates, slots=len(candidates)),
                tuple(Click(request_id, user, video, ts) for video in clicked),
                tuple(
                    self._behavior(user, video, ts, "click" if is_clicked else "skip")
                    for video, is_clicked in exposures.items()
                ),
            )

    def _behavior(self, user: str, video: str, ts: int, action: str) -> Behavior:
        return Behavior(user, video, ts, self._tags.get(video, ""), action)


def read_files(directory: Path) -> KuaiRand:
    """Read a folder's `impressions.tsv.xz` and `history.tsv.xz`, which have a header line.

    Impressions: user_id, video_id, time_ms, is_click, tag. History: user_id, pos, video_id.
    The first of a video's tags is its category; the tag `unknown` means none.

    Raises:
        DatasetError: when a file is missing or malformed.
    """
    require_files(directory, "impressions.tsv.xz", "history.tsv.xz")
    impressions: list[tuple[int, int, str, bool]] = []
    tags: dict[str, str] = {}
    try:
        with lzma.open(directory / "impressions.tsv.xz", "rt", encoding="utf-8", newline="") as lines:
            rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            columns = {name: index for index, name in enumerate(next(rows))}
            wanted = ("time_ms", "user_id", "video_id", "is_click", "tag")
            take = itemgetter(*(columns[name] for name in wanted))
            for row in rows:
                ts, user, video, clicked, tag = take(row)
                impressions.append((int(ts), int(user), video, bool(int(clicked))))
                tags[video] = tag.partition(",")[0].replace("unknown", "")
        with lzma.open(directory / "history.tsv.xz", "rt", encoding="utf-8") as lines:
            header = lines.readline().rstrip("\n").split("\t")
            usecols = [header.index(name) for name in ("user_id", "pos", "video_id")]
            history = np.loadtxt(lines, dtype=np.int64, delimiter="\t", usecols=usecols, ndmin=2)
    except (ValueError, KeyError, IndexError, StopIteration, EOFError, lzma.LZMAError) as error:
        raise DatasetError(f"{directory} is not a KuaiRand folder: {error}") from error
    return KuaiRand(impressions, history.reshape(-1, 3), tags)
