"""Tests of `stream/report`."""
