"""Tests of `stream/datasets`."""
