"""Tests of `model/serialization`."""
