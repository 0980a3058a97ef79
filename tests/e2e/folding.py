"""The oracle of sequences: `behaviors` folded in plain Python."""

from state.behavior import BehaviorArray, action_key, behaviors, category_key, item_key
from stream.schema.events import decode_behavior
from tests.e2e.harness import Harness


def folded(harness: Harness) -> dict[str, BehaviorArray]:
    """Fold `behaviors` in plain Python: user → all of them, in order."""
    rows: dict[str, list[tuple[int, int, int, int]]] = {}
    for value in harness.read(harness.topics.behaviors):
        each = decode_behavior(value)
        packed = item_key(each.item), category_key(each.category), action_key(each.action), each.ts
        rows.setdefault(each.user, []).append(packed)
    return {user: behaviors(packed) for user, packed in rows.items()}
