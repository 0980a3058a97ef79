"""A simulated world whose click probabilities are known, and its users. Imports `report`, `client` and below."""
