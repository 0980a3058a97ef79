"""Tests of stream.gateway."""
