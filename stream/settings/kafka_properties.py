"""Section `kafka`: librdkafka's properties, and which of them belong to samstream."""

RESERVED = frozenset(
    {
        "group.id",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "auto.offset.reset",
        "isolation.level",
        "partition.assignment.strategy",
        "group.protocol",
        "enable.idempotence",
        "partitioner",
    }
)
"""librdkafka properties that are not for the user to set."""


class Properties(dict[str, str]):
    """librdkafka properties; `repr` shows the address alone, since any other value can be a secret."""

    def __repr__(self) -> str:
        shown = {key: value if key == "bootstrap.servers" else "…" for key, value in self.items()}
        return f"Properties({shown})"
