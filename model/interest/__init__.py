"""Interest models: from a sequence and candidates to one vector a candidate. `options` has every kind."""
