"""Tests of `stream/backfill`."""
