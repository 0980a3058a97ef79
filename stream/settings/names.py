"""The names that two installations on one cluster or machine must not share, as they follow from the topics' prefix."""


def default_names(prefix: str) -> dict[str, dict[str, str]]:
    """Return section → key → the name where none is set; two prefixes never get the same one.

    The prefix is one that Kafka takes in a topic's name. `..` is such a prefix, and so is `state`: a directory has its
    own word before it, so that it leads nowhere else and lies in no other installation's directory.

    >>> default_names("shop.")["worker"], default_names("shop.")["state"]
    ({'group': 'shop.samstream-worker'}, {'directory': '.samstream/prefix-shop./state'})
    """
    directory = f".samstream/prefix-{prefix}" if prefix else ".samstream"
    return {
        "state": {"directory": f"{directory}/state"},
        "worker": {"group": f"{prefix}samstream-worker"},
        "trainer": {"directory": f"{directory}/checkpoints"},
        "monitor": {"group": f"{prefix}samstream-monitor", "directory": f"{directory}/monitor"},
    }
