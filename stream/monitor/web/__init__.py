"""The monitor's page: its server, and the JSON and files that it serves."""
