"""Faults on purpose, and the accounts that must balance after them."""
