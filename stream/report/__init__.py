"""Reports: what was measured, as JSON, as pictures and as one self-contained page."""
