"""Tests of `stream/kafka`."""
