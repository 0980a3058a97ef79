"""The pictures of a report, made with matplotlib. Imports what `report` may import."""
