"""What a worker and a trainer serve to Prometheus agrees with what was sent to them."""

from pathlib import Path

from stream.schema.topics import Topics
from tests.e2e.harness import Harness, wait_for
from tests.e2e.served import health, served


def test_what_is_served_agrees_with_what_was_sent(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    with Harness(kafka, topics, topic_prefix, tmp_path) as harness:
        worker, trainer = harness.start_measured()
        harness.wander(400)
        harness.traffic(30)
        harness.client.behavior("user-1", "item-1")
        harness.close_windows()
        wait_for(lambda: harness.trained() >= len(harness.shown()), "all to be trained", processes=harness.processes)

        behaviors = len(harness.read(topics.behaviors))
        records = behaviors + len(harness.asked) + len(harness.clicked)

        def settled() -> bool:
            return served(worker)["samstream_records_total", "worker"] >= records

        wait_for(settled, "the worker to say that it has worked off everything", processes=harness.processes)
        told = served(worker)
        assert told["samstream_records_total", "worker"] == records
        assert told["samstream_lag_records", "worker"] == 0
        assert told["samstream_events_total", "behaviors"] == behaviors
        assert told["samstream_events_total", "impressions"] == len(harness.asked)
        assert told["samstream_events_total", "clicks"] == len(harness.clicked)
        assert told["samstream_events_total", "samples"] == len(harness.shown())
        assert told["samstream_partitions",] == 4
        assert told["samstream_answer_seconds_count",] == len(harness.asked)
        assert told["samstream_batch_records",] > 0
        assert told["samstream_dead_letters_total",] == 0
        assert told["samstream_open_requests",] == 0
        assert told["samstream_healthy", "worker"] == 1
        assert told["samstream_model_version", "counts"] > 0

        def trainer_says_all() -> bool:
            return served(trainer).get(("samstream_events_total", "samples")) == len(harness.shown())

        wait_for(trainer_says_all, "the trainer to say that all is learned", processes=harness.processes)
        told = served(trainer)
        assert told["samstream_model_epoch", "sam"] == 1
        assert told["samstream_steps_skipped_total", "sam"] == 0
        assert 0 < told["samstream_progressive", "counts", "log_loss"] < 5
        assert health(trainer)[1]["healthy"] is True
