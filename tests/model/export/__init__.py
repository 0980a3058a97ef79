"""Tests of `model/export`."""
