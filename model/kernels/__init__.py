"""Faster forms of what `model.interest` computes, chosen at run time; without them, torch does the same."""
