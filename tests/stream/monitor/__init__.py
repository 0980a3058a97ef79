"""Tests of stream.monitor."""
