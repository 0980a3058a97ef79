"""KuaiRand-Pure (Gao et al., CIKM 2022; CC BY-SA 4.0): real impressions of short videos with true clicks.

The log has one line for each exposure. Lines of one user and millisecond were shown together: they are one
impression, and the same video repeated is one exposure. Every exposure is a behaviour with action `click` or `skip`.
Exposures before the log have neither click nor time: they get action `view` and times six hours apart before the log,
which keeps their order and is close to the median gap within the log (nine hours).

What happened after a video was shown (how long it was watched, liked, …) is a feature of no impression. Whether it was
watched for long is one of past behaviours; of 195,606 impressions that follow another of their user, 89 come
while that still plays, and so know it too early.
"""

import csv
import lzma
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Raw

from stream.datasets.base import DatasetError, DatasetTotals, Observation, Step, Visit, require_files
from stream.schema.events import Behavior, Candidate, Click, Impression, encode_json
from stream.schema.features import FeatureDefinition
from stream.schema.units import DAY_MS, HOUR_MS

HISTORY_GAP_MS = 6 * HOUR_MS

FEATURES: Mapping[str, FeatureDefinition] = {
    "author": FeatureDefinition(of="item", kind="category"),
    "duration_s": FeatureDefinition(of="item", kind="number"),
    "tags": FeatureDefinition(of="item", kind="categories", size=3),
    "hour": FeatureDefinition(of="context", kind="category"),
    "tab": FeatureDefinition(of="context", kind="category"),
    "long_view": FeatureDefinition(of="behavior", kind="number"),
}
ADVISED: Sequence[str] = ("author", "duration_s", "tags", "tab", "long_view")

_CHINA_MS = 8 * HOUR_MS
"""What its clocks are ahead of UTC."""


class Exposure(NamedTuple):
    """A video was shown: when (ms), to whom, on which tab of the app; whether it was clicked, and watched for long."""

    ts: int
    user: int
    video: str
    tab: str
    clicked: bool
    long_view: bool


@dataclass(frozen=True, slots=True)
class Video:
    """What is known of a video; its first tag is its category.

    Attributes:
        tags: at most three.
        author: its author.
        duration_s: seconds that it takes; 0 when unknown.
    """

    tags: tuple[str, ...]
    author: str
    duration_s: float

    @property
    def features(self) -> dict[str, object]:
        """Its features that are known."""
        return {
            "author": self.author,
            "tags": self.tags,
            **({"duration_s": self.duration_s} if self.duration_s else {}),
        }


class KuaiRand:
    """Histories first, then the impressions in time order.

    Args:
        impressions: in any order.
        history: (N, 4) int64: user, position (0 the oldest), video, 1 if watched for long; before all impressions.
        videos: what is known of them; of one that is not in it, nothing is.

    Raises:
        DatasetError: when there are no impressions.
    """

    name = "kuairand"
    has_exposures = True
    features = FEATURES
    advised = ADVISED

    def __init__(
        self, impressions: Iterable[Exposure], history: npt.NDArray[np.int64], videos: Mapping[str, Video]
    ) -> None:
        moment = attrgetter("ts", "user")
        self._visits = [_Shown.of(list(shown)) for _, shown in groupby(sorted(impressions, key=moment), key=moment)]
        if not self._visits:
            raise DatasetError("the data set has no impressions")
        self._history = self._dated(history, before=self._visits[0].ts)
        self._candidates: dict[str, Candidate] = {}
        self._features: dict[str, tuple[Raw, Raw]] = {}
        """Video → features of a behaviour that did not watch it for long, and of one that did."""
        for name, video in videos.items():
            own = video.features
            self._candidates[name] = Candidate(name, next(iter(video.tags), ""), Raw(encode_json(own)))
            self._features[name] = _of_behavior(own)
        samples = sum(len(shown.exposures) for shown in self._visits)
        self.totals = DatasetTotals(
            behaviors=len(self._history) + samples,
            visits=len(self._visits),
            samples=samples,
            positives=sum(clicked for shown in self._visits for clicked, _ in shown.exposures.values()),
        )

    @staticmethod
    def _dated(history: npt.NDArray[np.int64], *, before: int) -> npt.NDArray[np.int64]:
        """Return (N, 4) time, user, video, watched, in order of time; a user's newest is one gap before `before`."""
        users, positions, videos, watched = history.T
        known, codes = np.unique(users, return_inverse=True)
        newest = np.full(len(known), -1, dtype=np.int64)
        np.maximum.at(newest, codes, positions)
        times = before - (newest[codes] + 1 - positions) * HISTORY_GAP_MS
        order = np.lexsort((users, times))
        return np.stack((times, users, videos, watched), axis=1)[order]

    def steps(self) -> Iterator[Step]:
        """Yield an `Observation` for each exposure of the histories, then a `Visit` for each impression."""
        for row in self._history:
            ts, user, video, watched = row.tolist()
            yield Observation((self._behavior(str(user), str(video), ts, "view", long_view=bool(watched)),))
        for shown in self._visits:
            ts, user = shown.ts, shown.user
            request_id = f"kr-{user}-{ts}"
            candidates = [self._candidate(video) for video in shown.exposures]
            features = Raw(encode_json({"hour": (ts + _CHINA_MS) % DAY_MS // HOUR_MS, "tab": shown.tab}))
            yield Visit(
                Impression(request_id, user, ts, candidates, slots=len(candidates), features=features),
                tuple(Click(request_id, user, video, ts) for video, (clicked, _) in shown.exposures.items() if clicked),
                tuple(
                    self._behavior(user, video, ts, "click" if clicked else "skip", long_view=long_view)
                    for video, (clicked, long_view) in shown.exposures.items()
                ),
            )

    def _candidate(self, video: str) -> Candidate:
        return self._candidates.get(video) or Candidate(video)

    def _behavior(self, user: str, video: str, ts: int, action: str, *, long_view: bool) -> Behavior:
        features = self._features.get(video, _UNKNOWN)[long_view]
        return Behavior(user, video, ts, self._candidate(video).category, action, features)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a user was shown at one moment (ms).

    Attributes:
        tab: that of the first line; 68 of the moments have several.
        exposures: video → whether it was clicked, and watched for long, in the order of the log.
    """

    ts: int
    user: str
    tab: str
    exposures: dict[str, tuple[bool, bool]]

    @classmethod
    def of(cls, lines: Sequence[Exposure]) -> "_Shown":
        """Join the lines of one user and moment."""
        exposures: dict[str, tuple[bool, bool]] = {}
        for line in lines:
            clicked, long_view = exposures.get(line.video, (False, False))
            exposures[line.video] = clicked or line.clicked, long_view or line.long_view
        return cls(lines[0].ts, str(lines[0].user), lines[0].tab, exposures)


def _of_behavior(video: Mapping[str, object]) -> tuple[Raw, Raw]:
    skimmed, watched = (Raw(encode_json({**video, "long_view": long_view})) for long_view in (0, 1))
    return skimmed, watched


_UNKNOWN = _of_behavior({})


def read_files(directory: Path) -> KuaiRand:
    """Read a folder's `impressions.tsv.xz` and `history.tsv.xz`, which have a header line.

    Impressions: user_id, video_id, time_ms, is_click, long_view, duration_ms, tab, author_id, tag. History: user_id,
    pos, video_id, long_view_recon. The tag `unknown` means none.

    Raises:
        DatasetError: when a file is missing or malformed.
    """
    require_files(directory, "impressions.tsv.xz", "history.tsv.xz")
    impressions: list[Exposure] = []
    videos: dict[str, Video] = {}
    try:
        with lzma.open(directory / "impressions.tsv.xz", "rt", encoding="utf-8", newline="") as lines:
            rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            columns = {name: index for index, name in enumerate(next(rows))}
            take = itemgetter(*(columns[name] for name in _IMPRESSION_COLUMNS))
            for row in rows:
                ts, user, video, tab, clicked, long_view, duration, author, tags = take(row)
                impressions.append(Exposure(int(ts), int(user), video, tab, bool(int(clicked)), bool(int(long_view))))
                if video not in videos:
                    known = tuple(tag for tag in tags.split(",") if tag not in ("", "unknown"))
                    videos[video] = Video(known[:3], author, int(duration) / 1000)
        with lzma.open(directory / "history.tsv.xz", "rt", encoding="utf-8") as lines:
            header = lines.readline().rstrip("\n").split("\t")
            usecols = [header.index(name) for name in ("user_id", "pos", "video_id", "long_view_recon")]
            history = np.loadtxt(lines, dtype=np.int64, delimiter="\t", usecols=usecols, ndmin=2)
    except (ValueError, KeyError, IndexError, StopIteration, EOFError, lzma.LZMAError) as error:
        raise DatasetError(f"{directory} is not a KuaiRand folder: {error}") from error
    return KuaiRand(impressions, history.reshape(-1, 4), videos)


_IMPRESSION_COLUMNS = (
    "time_ms",
    "user_id",
    "video_id",
    "tab",
    "is_click",
    "long_view",
    "duration_ms",
    "author_id",
    "tag",
)
