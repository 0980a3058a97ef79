"""A rolling sequence of 1000 behaviours for each user in the state of Quix Streams, with its changelog.

Arguments: bootstrap servers, topic, partitions, group, records to take, directory. Prints seconds for all but the first
tenth of the records. Needs `quixstreams`; knows nothing of samstream.
"""

import json
import struct
import sys
import time
import zlib
from typing import Any

from quixstreams import Application, State

BOOTSTRAP, TOPIC, PARTITIONS, GROUP, RECORDS, DIRECTORY = sys.argv[1:]
LENGTH, SIZE = 1000, 22
FULL = bytes(LENGTH * SIZE)
WARM = int(RECORDS) // 10
pack = struct.Struct("<QIHq").pack
done = 0
began = 0.0

app = Application(
    broker_address=BOOTSTRAP,
    consumer_group=GROUP,
    auto_offset_reset="earliest",
    state_dir=DIRECTORY,
    loglevel="WARNING",
    commit_interval=0.5,
)
frame = app.dataframe(app.topic(TOPIC, value_deserializer="json"))


def fold(event: dict[str, Any], state: State) -> None:
    """Append a behaviour to its user's sequence."""
    global done, began
    record = pack(
        zlib.crc32(event["item"].encode()), zlib.crc32(event["category"].encode()), len(event["action"]), event["ts"]
    )
    state.set_bytes("sequence", (state.get_bytes("sequence", FULL) + record)[-LENGTH * SIZE :])
    done += 1
    if done == WARM:
        began = time.perf_counter()


frame.update(fold, stateful=True)

if __name__ == "__main__":
    app.run(count=int(RECORDS))
    print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)
