"""What can go wrong in `stream`, as exceptions whose text says what was wrong and what to do."""


class StreamError(Exception):
    """Base of every error that the package raises on purpose."""


class SettingsError(StreamError):
    """The configuration has an unknown key, a value that cannot be, or a file that cannot be read."""


class ExperimentError(StreamError):
    """An experiment's file cannot be read, has an unknown key, or arms that cannot be compared."""


class KafkaClientError(StreamError):
    """Kafka did not take a record, or refuses this client."""


class KafkaSilentError(KafkaClientError):
    """Kafka has not answered for too long: a job that has begun starts over, as after a crash."""


class BrokerError(StreamError):
    """A local broker cannot be started, or did not come up."""


class EngineMissingError(BrokerError):
    """The engine that was asked for is not installed here."""


class TopicError(StreamError):
    """Topics are missing, have the wrong partition count, or cannot be made."""


class NoAnswerError(StreamError, TimeoutError):
    """No answer to an impression arrived in time."""


class WorkerError(StreamError):
    """A worker cannot go on with the state or the topics it has."""


class TrainerError(StreamError):
    """A trainer cannot go on with the samples or the disk it has."""


class MonitorError(StreamError):
    """A monitor cannot keep its tables."""


class ReportError(StreamError):
    """A report cannot be written where it should be."""


class ConsumerFatalError(WorkerError):
    """A consumer is of no use any more, such as one that was fenced; a new one may be."""


class ChildDiedError(StreamError):
    """A child process ended before it was told to."""


class ReplayError(StreamError):
    """A replay cannot go on: an answer or a label that it waits for does not come."""


class EventError(StreamError, ValueError):
    """An event that is about to be written has a field that no reader would accept."""


class SimulationError(StreamError):
    """A simulation cannot go on: nobody answers it."""


class TimeError(StreamError, ValueError):
    """A time is written in a way that nobody understands, or two times are in the wrong order."""


class BackfillError(StreamError):
    """History cannot be read, or cannot go on where it was: names the file, the column, or what differs."""


class RegistryError(StreamError):
    """The schema registry does not answer, or not as one: what it was asked must be asked again."""
