"""Writes history into the topics: files → sorted runs → slices of time → records."""

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from stream.backfill.columns import Column, Source, Unit, check_names, check_schema, columns_of
from stream.backfill.files import find_files, identify, read_schema
from stream.backfill.position import Job, Position, load_position, save_position, sole_backfill, text_of
from stream.backfill.prepare import Watch, sort_rows
from stream.backfill.runs import find_runs, merge
from stream.backfill.writer import SliceWriter
from stream.errors import BackfillError
from stream.kafka.clients import consumer
from stream.kafka.identity import IdentityClient, compare
from stream.kafka.offsets import watermarks
from stream.kafka.topic_admin import verify
from stream.runtime.closing import Resources
from stream.runtime.logs import log
from stream.schema.position import Origin
from stream.schema.topics import Topics
from stream.settings import Settings

_logger = logging.getLogger("samstream.backfill")


@dataclass(frozen=True, kw_only=True)
class History:
    """What is to be written.

    Attributes:
        behaviors: files and folders of behaviours.
        impressions: files and folders of labelled impressions.
        names: field → column, where that differs.
        unit: of whole numbers in columns of time.
    """

    behaviors: Sequence[Path] = ()
    impressions: Sequence[Path] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    unit: Unit = "ms"


def run_backfill(settings: Settings, history: History, work: Path, *, memory_bytes: int, watch: Watch) -> Position:
    """Write history, or go on where a run that ended had come to; returns the last position.

    Args:
        settings: the configuration; limits and features are those of the workers.
        history: what is to be written.
        work: a folder of this backfill: sorted rows while it runs, the position, and what was refused.
        memory_bytes: of rows that are sorted at once; about three times as much is used.
        watch: is told of progress.

    Raises:
        BackfillError: when files cannot be read or have other columns, or the position is of something else.
        StreamError: when Kafka does not take the records.
    """
    topics = Topics(settings.topics.prefix)
    found = {
        "behaviors": find_files(history.behaviors),
        "impressions": find_files(history.impressions),
    }
    features = settings.feature_schema().features
    columns: dict[Source, list[Column]] = {
        source: columns_of(source, features, history.names) for source in _sources(found)
    }
    check_names(history.names, [column for each in columns.values() for column in each])
    for source in columns:
        for path in found[source]:
            check_schema(path, read_schema(path), columns[source])
    partitions = verify(settings.kafka, topics, configured=settings.topics.partitions)
    written_to = [topics.behaviors] * bool(found["behaviors"])
    written_to += [topics.impressions, topics.clicks] * bool(found["impressions"])
    with sole_backfill(work):
        job = Job(
            files=[identify(source, path) for source in columns for path in found[source]],
            columns=dict(sorted(history.names.items())),
            unit=history.unit,
            features=text_of(settings.features),
            logs=IdentityClient(settings.kafka).identify(written_to),
        )
        position = load_position(work, job)
        if position is None:
            position = _begin(settings, job, columns, work, partitions, memory_bytes, watch)
            begun = True
        else:
            _check_topics(settings, work, position)
            begun = False
        if not position.done:
            _check_runs(work, position)
            with Resources() as resources:
                writer = resources.add(SliceWriter(settings, topics, work, position, partitions))
                if not begun:
                    writer.find_written()
                for number, rows in enumerate(merge(find_runs(work))):
                    if number >= writer.position.slices:
                        writer.write(rows)
                    watch("written", writer.position.rows_done, position.rows)
                position = replace(writer.position, done=True)
            save_position(work, position)
        for path in find_runs(work):
            path.unlink()
    return position


def _begin(
    settings: Settings,
    job: Job,
    columns: Mapping[Source, Sequence[Column]],
    work: Path,
    partitions: int,
    memory_bytes: int,
    watch: Watch,
) -> Position:
    """Sort all rows, and save the position before the first slice."""
    rows = sort_rows(job, columns, work, memory_bytes=memory_bytes, watch=watch)
    runs = {path.name: path.stat().st_size for path in find_runs(work)}
    position = Position(job=job, run=uuid.uuid4().hex, rows=rows, runs=runs, offsets=_ends(settings, job, partitions))
    save_position(work, position)
    return position


def _sources(found: Mapping[str, Sequence[Path]]) -> list[Source]:
    sources: list[Source] = ["behaviors", "impressions"]
    return [source for source in sources if found[source]]


def _ends(settings: Settings, job: Job, partitions: int) -> dict[str, dict[int, int]]:
    """Return where each partition ends now; says which topics have records that come before all of these."""
    ends: dict[str, dict[int, int]] = {}
    with Resources() as resources:
        asker = resources.add(consumer(settings.kafka, {"group.id": "samstream-backfill"}))
        for topic in job.logs:
            found = [watermarks(asker, topic, number) for number in range(partitions)]
            ends[topic] = {number: high for number, (_, high) in enumerate(found)}
            if records := sum(high - low for low, high in found):
                means = "a sequence is in the order of its topic: what is written now comes after these"
                log(_logger, "topic_not_empty", logging.WARNING, topic=topic, records=records, means=means)
    return ends


def _check_topics(settings: Settings, work: Path, position: Position) -> None:
    """See that the topics have what was written; where the broker has no topic ids, their ends tell.

    Raises:
        BackfillError: names the partition that ends before what was written.
    """
    with Resources() as resources:
        asker = resources.add(consumer(settings.kafka, {"group.id": "samstream-backfill"}))
        for topic, ends in position.offsets.items():
            for number, offset in ends.items():
                if compare(asker, Origin(position.job.logs[topic]), position.job.logs[topic], number, offset):
                    raise BackfillError(
                        f"{topic}/{number} ends before offset {offset}, up to which this backfill has written: it was"
                        f" recreated, or Kafka has lost records. To write all again, remove {work}"
                    )


def _check_runs(work: Path, position: Position) -> None:
    if {path.name: path.stat().st_size for path in find_runs(work)} != position.runs:
        raise BackfillError(
            f"the sorted rows in {work} are not those that its position is of: what is written already can no longer"
            f" be told. Remove {work} to write all again"
        )
