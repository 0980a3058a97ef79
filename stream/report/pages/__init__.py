"""The HTML pages of a report, made with Jinja. Imports what `report` may import."""
