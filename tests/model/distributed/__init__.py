"""Tests of learners on several ranks."""
