"""The shop of the demo: a page on which a person plays a user, and the items that are sold there."""
