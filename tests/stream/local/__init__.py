"""Tests of `stream/local`."""
