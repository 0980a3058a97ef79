"""The pages of a report, made with Jinja."""
