"""Tests of `model/statistics`."""
