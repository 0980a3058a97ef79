"""The partition that Kafka's default partitioner gives a key, without a client."""

_MASK = 0xFFFF_FFFF
_M = 0x5BD1_E995


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key: murmur2, as in Kafka's Java clients and librdkafka's `murmur2_random`.

    >>> partition_of(b"kafka", 100)
    80
    """
    return (_murmur2(key) & 0x7FFF_FFFF) % partitions


def _murmur2(data: bytes) -> int:
    """Return the 32-bit MurmurHash2 (A. Appleby) with Kafka's seed."""
    h = (0x9747_B28C ^ len(data)) & _MASK
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little") * _M & _MASK
        h = (h * _M & _MASK) ^ ((k ^ k >> 24) * _M & _MASK)
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15
