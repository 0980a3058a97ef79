"""The accounts of a whole campaign: of the system under kills, and of the kinds of fault that have their own."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.faults.accounts import Accounts


@dataclass(frozen=True, slots=True)
class Results:
    """What a campaign found.

    Attributes:
        traffic: of the system under kills; None when it was not asked for.
        episodes: kind of fault → accounts of its system.
        failures: kind of fault → why its system could not be brought to an end.
        left_out: kind of fault → why it is not possible here.
    """

    traffic: Accounts | None
    episodes: Mapping[str, Accounts]
    failures: Mapping[str, str]
    left_out: Mapping[str, str]

    def as_dict(self) -> dict[str, object]:
        """Return it as plain values."""
        return (self.traffic.as_dict() if self.traffic else {}) | {
            "episodes": {kind: accounts.as_dict() for kind, accounts in self.episodes.items()},
            "failures": dict(self.failures),
            "left_out": dict(self.left_out),
        }

    def balanced(self) -> bool:
        """Say whether nothing was lost, doubled, wrong or different, and every system came to its end."""
        parts = [*self.episodes.values(), *([self.traffic] if self.traffic else [])]
        return not self.failures and all(accounts.balanced() for accounts in parts)

    def table(self) -> str:
        """Return it for a person to read."""
        parts = [self.traffic.table()] if self.traffic else []
        for kind, accounts in self.episodes.items():
            parts.append(f"== {kind}, {accounts.seconds:.0f} s ==\n{accounts.table()}")
        parts += [f"== {kind}: FAILED ==\n{reason}" for kind, reason in self.failures.items()]
        parts += [f"== {kind}: left out ==\n{reason}" for kind, reason in self.left_out.items()]
        return "\n\n".join(parts)
