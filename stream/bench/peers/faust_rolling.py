"""A rolling sequence of 1000 behaviours for each user in a Faust table on RocksDB, with its changelog.

Arguments: bootstrap servers, topic, partitions, group, records to take, directory. Prints seconds for all but the first
tenth of the records. Needs `faust-streaming[rocksdict]` and `cramjam`; knows nothing of samstream.
"""

import json
import os
import struct
import sys
import time
import zlib

import cramjam  # noqa: F401  aiokafka needs it for lz4, which the records have, and would crash only when it meets them
import faust

BOOTSTRAP, TOPIC, PARTITIONS, GROUP, RECORDS, DIRECTORY = sys.argv[1:]
LENGTH, SIZE = 1000, 22
FULL = bytes(LENGTH * SIZE)
WARM = int(RECORDS) // 10

app = faust.App(
    GROUP,
    broker=f"kafka://{BOOTSTRAP}",
    store="rocksdb://?driver=rocksdict",
    datadir=DIRECTORY,
    topic_partitions=int(PARTITIONS),
    topic_replication_factor=1,
    web_enabled=False,
    value_serializer="raw",
    key_serializer="raw",
    consumer_auto_offset_reset="earliest",
    producer_max_request_size=2_000_000,
)
topic = app.topic(TOPIC, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
table = app.Table(
    "sequences",
    default=lambda: FULL,
    partitions=int(PARTITIONS),
    key_type=bytes,
    value_type=bytes,
)
pack = struct.Struct("<QIHq").pack
done = 0
began = 0.0


@app.agent(topic)
async def fold(stream: faust.StreamT[bytes]) -> None:
    """Append each behaviour to its user's sequence."""
    global done, began
    async for key, value in stream.items():
        event = json.loads(value)
        record = pack(
            zlib.crc32(event["item"].encode()),
            zlib.crc32(event["category"].encode()),
            len(event["action"]),
            event["ts"],
        )
        table[key] = (table[key] + record)[-LENGTH * SIZE :]
        done += 1
        if done == WARM:
            began = time.perf_counter()
        elif done == int(RECORDS):
            # Faust takes what is printed for a log.
            print(json.dumps({"seconds": time.perf_counter() - began}), file=sys.__stdout__, flush=True)
            os._exit(0)


if __name__ == "__main__":
    app.finalize()
    faust.Worker(app, loglevel="WARNING").execute_from_commandline()
