"""Embedding tables: keys to rows, initial vectors, learned rows."""
