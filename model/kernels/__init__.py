"""Faster forms of what torch computes slowly; each is optional, and the torch form beside it is the fallback."""
