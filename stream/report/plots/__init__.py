"""The pictures of a report, made with matplotlib."""
