"""Features that callers bring: what they are, how they lie in records, and how a network reads them."""
