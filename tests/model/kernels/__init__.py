"""Tests of `model/kernels`."""
