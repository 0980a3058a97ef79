"""Statistics on plain numbers: moments, effects, intervals, checks. Imports nothing of samstream."""
