"""Tests of `model/interest`."""
