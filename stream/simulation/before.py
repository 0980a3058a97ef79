"""The time before an experiment: everybody is shown a random choice, and their clicks say how much they click anyway.

No arm takes part, so nothing here can depend on the arm that a user will be in: what CUPED asks of its covariate. The
visits happen at the moment when the world begins; nothing of them is sent to Kafka.
"""

import numpy as np

from stream.experiment.user_sums import UserSums
from stream.simulation.world import World


def time_before(world: World, impressions: int, slots: int) -> UserSums:
    """Return what the users of `impressions` visits were shown and clicked, as sums by users' numbers."""
    sums, users = UserSums(), world.visitors(impressions).tolist()
    shown, clicks = [], []
    for user in users:
        items = world.impression(user, world.start).items[:slots]  # they come shuffled
        shown.append(len(items))
        clicks.append(int(np.count_nonzero(world.clicks(user, items, world.start))))
    sums.add_before([str(user) for user in users], shown, clicks)
    return sums
