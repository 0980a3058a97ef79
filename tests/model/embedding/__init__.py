"""Tests of `model/embedding`."""
