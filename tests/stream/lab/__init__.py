"""Tests of the laboratory in virtual time."""
