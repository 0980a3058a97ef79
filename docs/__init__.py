"""The documents; `docs.generator` writes the parts of them that come from code and measurements."""
