"""Writes slices of rows into the topics, each record once, whatever is killed."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import pyarrow as pa
from confluent_kafka import Message
from msgspec.structs import replace

from stream.backfill.columns import Source
from stream.backfill.position import REFUSED, Position, save_position
from stream.backfill.rows import ROW_ERRORS, Outgoing, RowReader, rows_of
from stream.backfill.runs import ORIGIN
from stream.kafka.clients import to_record
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.runtime.closing import Resources
from stream.runtime.failpoints import failpoint
from stream.schema.topics import Topics
from stream.settings import Settings

HEADER = "backfill"
_IN_FLIGHT_S = 2.0
"""How long what a run that was killed had sent may take to be in Kafka."""


class SliceWriter:
    """Writes slices, one after the other, and keeps the position.

    A slice is written, acknowledged, and then saved as the position. What a run that was killed had written after its
    position is found by a header that names the run and the row.

    Args:
        settings: the configuration.
        topics: the names.
        work: the folder of the backfill.
        position: how far it is.
        partitions: of the topics.
    """

    def __init__(self, settings: Settings, topics: Topics, work: Path, position: Position, partitions: int) -> None:
        self.position = position
        self._settings = settings
        self._order = (topics.impressions, topics.clicks, topics.behaviors)
        self._work = work
        now_ms = round(time.time() * 1000)
        self._reader = RowReader(settings, topics, partitions=partitions, now_ms=now_ms)
        self._sender = ReliableProducer(settings.kafka)
        self._written: set[tuple[str, bytes]] = set()
        self._ends = {topic: dict(ends) for topic, ends in position.offsets.items()}
        (work / REFUSED).touch()
        self._refused: BinaryIO = (work / REFUSED).open("r+b")
        self._refused.seek(self._refused.truncate(position.refused_bytes))  # what came after is refused again

    def close(self) -> None:
        """Close the file of refused rows."""
        self._refused.close()

    def find_written(self) -> None:
        """Find what a run that was killed has written since its position was saved."""
        time.sleep(_IN_FLIGHT_S)
        offsets = {(topic, number): at for topic, ends in self._ends.items() for number, at in ends.items()}
        prefix = f"{self.position.run}/".encode()
        with Resources() as resources:
            reader = resources.add(
                TopicReader(self._settings.kafka, self.position.job.logs, from_beginning=True, offsets=offsets)
            )
            for messages in reader.read_to_end():
                for message in messages:
                    for name, value in to_record(message).with_headers(message).headers:
                        if name == HEADER and value is not None and value.startswith(prefix):
                            self._written.add((message.topic() or "", value))

    def write(self, rows: Mapping[Source, pa.Table]) -> None:
        """Write the next slice; when this returns, it is in Kafka, and the position is behind it."""
        waiting: dict[str, list[tuple[Outgoing, bytes]]] = {topic: [] for topic in self._order}
        refused = count = 0
        for source, table in rows.items():
            for place, values in enumerate(rows_of(table)):
                count += 1
                try:
                    records = self._records(source, values)
                except ROW_ERRORS as error:
                    self._refuse(values, str(error))
                    refused += 1
                    continue
                for part, record in enumerate(records):
                    name = f"{self.position.run}/{self.position.slices}/{source}/{place}/{part}".encode()
                    waiting[record.topic].append((record, name))
        for topic in self._order:
            for record, name in waiting[topic]:
                if (topic, name) not in self._written:
                    headers: list[tuple[str, str | bytes | None]] = [(HEADER, name)]
                    self._sender.send(topic, record.value, key=record.user, headers=headers, on_delivery=self._note)
            # No worker may see what comes after an impression before the impression.
            self._sender.flush()
        self._written.clear()
        self._save(waiting, count, refused)

    def _records(self, source: Source, values: dict[str, object]) -> list[Outgoing]:
        if source == "impressions" and not values["request_id"]:
            file = self.position.job.files[int(str(values[ORIGIN[0]]))]
            values["request_id"] = f"{file.fingerprint[:16]}-{values[ORIGIN[1]]}"
        return self._reader.records(source, values)

    def _refuse(self, values: Mapping[str, object], reason: str) -> None:
        """Keep a row that no worker would take, with the reason and where it comes from."""
        file = self.position.job.files[int(str(values[ORIGIN[0]]))]
        own = {name: value for name, value in values.items() if name not in ORIGIN}
        kept = {"file": file.path, "row": values[ORIGIN[1]], "reason": reason, "values": own}
        try:
            line = msgspec.json.encode(kept)
        except UnicodeEncodeError:  # half characters, which JSON does not have
            line = msgspec.json.encode(kept | {"values": repr(own)})
        self._refused.write(line + b"\n")

    def _note(self, message: Message) -> None:
        ends, number = self._ends[message.topic() or ""], message.partition() or 0
        ends[number] = max(ends[number], (message.offset() or 0) + 1)

    def _save(self, waiting: Mapping[str, Sequence[object]], rows: int, refused: int) -> None:
        self._refused.flush()
        failpoint("backfilled")
        was = self.position
        sent = {topic: was.records.get(topic, 0) + len(each) for topic, each in waiting.items() if topic in self._ends}
        self.position = replace(
            was,
            slices=was.slices + 1,
            offsets={topic: dict(ends) for topic, ends in self._ends.items()},
            rows_done=was.rows_done + rows,
            records=sent,
            refused=was.refused + refused,
            refused_bytes=self._refused.tell(),
        )
        save_position(self._work, self.position)
