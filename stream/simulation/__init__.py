"""A simulated world whose true click probability is known, so that arms can be judged against the truth."""
