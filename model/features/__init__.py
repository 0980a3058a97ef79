"""Features of callers as tensors, as a network reads them, and what becomes of a model whose features change."""
