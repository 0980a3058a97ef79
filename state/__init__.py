"""Everything that is RocksDB: rolling sequences, pending impressions, offsets, and the partition they share."""
