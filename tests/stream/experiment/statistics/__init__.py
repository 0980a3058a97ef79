"""Tests of `stream/experiment/statistics`."""
