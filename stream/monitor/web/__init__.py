"""The monitor's page: its server, its JSON and its files. Imports what `monitor` may import."""
