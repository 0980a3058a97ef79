"""Sample-ratio mismatch: arms with other numbers of users than their shares say, which no verdict survives."""

from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln

CONCENTRATION = 1000.0
"""Weight of the expected shares in the Dirichlet prior: shares that are wrong by some 1.6 points are found soonest."""


def srm_p_value(users: Sequence[int], shares: Sequence[float]) -> float:
    """Return the p-value of "users are assigned by these shares", which may be looked at any time.

    It is one over the Bayes factor of a Dirichlet-multinomial, centred at the shares, against the multinomial (Lindon
    and Malek, NeurIPS 2022, arXiv 2011.03567): a test martingale over users in the order in which they are first seen.

    Args:
        users: of each arm.
        shares: of each arm, in any unit; arms with share 0 must have no users.
    """
    counts, expected = np.asarray(users, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    expected = expected / expected.sum()
    if np.any(counts[expected == 0] > 0):
        return 0.0
    counts, expected = counts[expected > 0], expected[expected > 0]
    prior = CONCENTRATION * expected
    log_factor = (
        gammaln(CONCENTRATION)
        - gammaln(CONCENTRATION + counts.sum())
        + np.sum(gammaln(prior + counts) - gammaln(prior) - counts * np.log(expected))
    )
    return float(np.exp(-max(log_factor, 0.0)))
