"""Who has placed what a simulated user clicked."""

from collections.abc import Collection

from stream.schema.events import Score


def clicked_by_team(score: Score, clicked: Collection[int]) -> dict[str, list[str]]:
    """Return team → those of its items that were clicked; nothing where the list was not interleaved.

    Args:
        score: the answer.
        clicked: indices of the clicked candidates.
    """
    return {team.arm: [score.items[index] for index in team.members if index in clicked] for team in score.teams}
