"""What the guardrails of the arm that leads add to the verdict's sentence."""

from collections.abc import Sequence

from stream.experiment.guardrails.results import GuardrailResult


def guardrail_words(results: Sequence[GuardrailResult], arm: str, *, brief: bool = False) -> str:
    """Say which guardrails an arm breaks, and of how many it is not known; to follow a sentence without its full stop.

    Args:
        results: of all arms.
        arm: the one that the sentence is on.
        brief: name what is broken without its numbers.
    """
    own = [result for result in results if result.arm == arm]
    if broken := [result.guardrail if brief else result.text for result in own if result.state == "breaks"]:
        return f", but breaks {len(broken)} of its guardrails: {'; '.join(broken)}"
    if open_ := sum(result.state != "holds" for result in own):
        return f". Of {len(own)} guardrails none is broken, and {open_} cannot be told yet"
    return f". It keeps all of its {len(own)} guardrails" if own else ""
