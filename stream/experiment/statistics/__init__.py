"""Statistics over users: moments, effects, intervals, tests. Imports nothing of `stream` outside this folder."""
