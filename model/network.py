"""The dense part of a model: from a batch and its embeddings to logits."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from model.batch import GAP_BUCKETS, Batch
from model.features.encoder import FeatureEncoder, names
from model.features.gather import columns_of
from model.interest.base import ExtraLoss, Known, build_interest
from model.interest.baselines import PRIOR_LOGIT, Popularity, build_baseline
from model.interest.mean import MeanPooling
from model.interest.options import Mean
from model.interest.packing import packed
from model.kernels import batch_invariant, native
from model.kernels.behaviour_keys import Rows, embed_keys
from model.match import (
    MATCH_FEATURES,
    PER_KIND,
    ListedMatches,
    MatchCounts,
    Matches,
    MatchLogits,
    compiled_matches,
    count_matches,
    find_matches,
    list_matches,
    match_features,
)
from model.peers import ALONE, Sums
from model.spec import ModelSpec
from model.standardise import Standardise

POSITIONS = 64
"""Places on a list that are told apart; those further down count as the last of these."""
_POSITION_RATE = 10.0
"""How much faster than the rest of the network the effect of a place is learned: else items learn it first."""
ACTION_ROWS = 64
"""Rows of the action table: row 0 for no action, the other 63 shared by all action keys."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What no parameter changes of how candidates and behaviours of a batch match, and of the candidates' numbers.

    Attributes:
        matches: which match; None for a model without.
        numbers: (B, C, n) as the head gets them, but not standardised yet; None for a model without.
    """

    matches: Matches | ListedMatches | None
    numbers: Tensor | None


@dataclass(frozen=True, slots=True)
class Embedded:
    """What was looked up for a batch; None where a model has no such table.

    Attributes:
        history: (B, L, d) embeddings of the behaviours, item beside category; or where they are, table by table.
        targets: (B, C, d) embeddings of the candidates.
        past_features: (B, L, m', f) embeddings of the texts among the features of behaviours.
        shown_features: (B, C, m, f) embeddings of those of candidates.
        seen: found once for several networks (`Network.look`); None to find it each time.
    """

    history: Tensor | tuple[Rows, ...] | None = None
    targets: Tensor | None = None
    past_features: Tensor | None = None
    shown_features: Tensor | None = None
    seen: Seen | None = field(default=None, kw_only=True)


class Network(nn.Module):
    """Logits of candidates from a batch and its embeddings; item and category embeddings come from outside.

    A behaviour's key is its item and category embeddings side by side, plus an action and a time-gap
    embedding of that width, which start at zero. A candidate is its item and category embeddings alone. Features of
    callers move both (`FeatureEncoder`).

    Args:
        spec: the network's definition.
        seed: of the initial parameters, which depend on nothing else; the global random state stays as it
            was.
    """

    def __init__(self, spec: ModelSpec, *, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.baseline = build_baseline(spec, seed)
            self.interest = build_interest(spec.width, spec.interest)
            self.actions = _zeros(ACTION_ROWS, spec.width) if self.interest is not None else None
            self.gaps = _zeros(GAP_BUCKETS, spec.width) if self.interest is not None else None
            attends = spec.match and spec.interest.attends
            self._matched_columns = columns_of(spec.features).matched_at if spec.match else ()
            self.match_logits = MatchLogits(len(self._matched_columns)) if attends else None
            pools = spec.pool and spec.interest.pools
            self.pool = MeanPooling(spec.width, Mean()) if pools else None
            self.features = FeatureEncoder(spec.features, spec.width if self.interest else 0) if spec.features else None
            brought, texts = (self.features.numbers, self.features.embedded) if self.features else (0, 0)
            matches = (MATCH_FEATURES + PER_KIND * len(self._matched_columns)) * spec.match
            numbers = matches + spec.numbers + brought
            width = (self.interest.width if self.interest else 0) + 2 * spec.width * pools + numbers + texts
            self.standardise = Standardise(numbers) if numbers else None
            self.head = build_head(width, spec.hidden) if self.baseline is None else nn.Sequential()
            self.cross = Cross(width) if spec.cross else None
            self.position = _zeros(POSITIONS, 1) if spec.position else None

    @property
    def intercept(self) -> nn.Parameter | None:
        """What every logit contains, a scalar or (1,); None for a kind that learns nothing."""
        if isinstance(self.baseline, Popularity):
            return self.baseline.bias
        if self.baseline is not None:
            return None
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        return last.bias

    def forward(self, batch: Batch, embedded: Embedded) -> Tensor:
        """Return (B, C) logits of the candidates alone; what stands at padded candidates means nothing.

        Args:
            batch: keys, masks and gaps.
            embedded: what was looked up for it.

        Raises:
            ValueError: when embeddings are missing that this kind reads.
        """
        logits, _ = self._logits(batch, embedded, learning=False)
        return logits

    def attention_weights(self, batch: Batch, embedded: Embedded) -> Tensor | None:
        """Return the (B, C, L) weights with which candidates read behaviours; None for a model that has none.

        See `InterestModel.attention_weights`.
        """
        if self.interest is None:
            return None
        logits, numbers = self._seen(batch, embedded)
        keys, targets, _ = self._sequence(batch, embedded, numbers)
        return self.interest.attention_weights(keys, batch.mask, targets, logits)

    def learn(self, batch: Batch, embedded: Embedded) -> tuple[Tensor, ExtraLoss | None]:
        """Return (B, C) logits of the candidates where they were shown, and what the interest model adds to the loss.

        A tower of its own adds what the place explains (Zhao et al., RecSys 2019, sec. 4.3).

        Raises:
            ValueError: when embeddings are missing that this kind reads.
        """
        logits, extra = self._logits(batch, embedded, learning=True)
        if self.position is not None and batch.positions is not None:
            places = _looked_up(self.position, batch.positions.clamp(max=POSITIONS - 1))
            logits = logits + _POSITION_RATE * places.squeeze(-1)
        return logits, extra

    def _logits(self, batch: Batch, embedded: Embedded, *, learning: bool) -> tuple[Tensor, ExtraLoss | None]:
        if self.baseline is not None:
            return self.baseline(batch, embedded.targets), None
        logits, numbers = self._seen(batch, embedded)
        parts, extra = [], None
        if self.interest is not None:
            keys, targets, sums = self._sequence(batch, embedded, numbers)
            read = keys, batch.mask, targets, logits, Known.of(batch)
            if learning and self.interest.adds_to_loss:
                vectors, extra = self.interest.learn(*read)
            else:
                vectors = packed(self.interest, *read)
            parts.append(vectors)
            if self.pool is not None:  # the target itself is in the interest already
                pooled = (
                    self.pool(keys, batch.mask, targets) if sums is None else self.pool.of(sums, batch.mask, targets)
                )
                parts.append(pooled[..., self.spec.width :])
        if numbers is not None:
            parts.append(numbers)
        if self.features is not None and self.features.embedded:
            assert batch.features is not None
            if embedded.shown_features is None:
                raise ValueError("it reads features that are texts, but not their embeddings")
            parts.append(self.features.texts(batch.features, embedded.shown_features))
        features = torch.cat(parts, dim=-1)
        if torch.compiler.is_compiling() or features.device.type != "cpu" or len(features) == 1:
            return self._head(features), extra
        # On a CPU, work on padding costs as much as work on candidates; a user alone has none.
        own = self._head(features[batch.target_mask])
        return own.new_zeros(batch.target_mask.shape).masked_scatter(batch.target_mask, own), extra

    def _head(self, features: Tensor) -> Tensor:
        logit = head_logits(self.head, features)
        return logit if self.cross is None else logit + self.cross(features)

    @torch.no_grad()
    def look(self, batch: Batch, embedded: Embedded) -> Embedded:
        """Return what was looked up, with what networks of this specification would each find once more."""
        if self.baseline is not None:
            return embedded
        parameter = next(self.head.parameters())
        matches: Matches | ListedMatches | None = None
        if self.spec.match and native.library() is not None and parameter.device.type == "cpu":
            matches = list_matches(batch, self._matched_columns)
        elif self.spec.match:
            matches = find_matches(batch, parameter.dtype, self._matched_columns)
        counts = None if matches is None else count_matches(matches, batch)
        return replace(embedded, seen=Seen(matches, None if self.standardise is None else self._numbers(batch, counts)))

    @property
    def axes(self) -> dict[str, tuple[list[str] | None, ...]]:
        """What lies along the axes of those parameters that features change; see `model.features.schema_change`."""
        read = columns_of(self.spec.features)
        matched = [feature.name for feature in read.matched] if self.spec.match else []
        numbers = [f"match/{place}" for place in range(2 * PER_KIND)] if self.spec.match else []
        numbers += [f"match/{name}/{place}" for name in matched for place in range(PER_KIND)]
        numbers += ["match/length"] if self.spec.match else []
        numbers += [f"statistics/{place}" for place in range(self.spec.numbers)]
        numbers += names(read.shown_numbers)
        d, own = self.spec.width, self.interest.width if self.interest else 0
        # Of another kind or width, the same place means something else.
        head = [f"{self.spec.kind}/{d}/{own}/{place}" for place in range(own)]
        head += [f"pool/{d}/{place}" for place in range(2 * d if self.pool is not None else 0)]
        head += [*numbers, *names(read.shown_keys, embedded=True)]
        features = {} if self.features is None else self.features.axes
        return {
            "head.0.weight": (None, head),
            "cross.products.weight": (head, head),
            "cross.products.bias": (head,),
            "cross.out.weight": (None, head),
            "match_logits.features": (matched,),
            **{f"standardise.{name}": (numbers,) for name in ("mean", "variance", "seen")},
            **{f"features.{name}": axes for name, axes in features.items()},
        }

    @torch.no_grad()
    def observe(self, batch: Batch, embedded: Embedded, sums: Sums = ALONE) -> None:
        """Take a batch into what no gradient moves: means and variances of numbers, state of the interest model.

        Args:
            batch: what this rank has learned from.
            embedded: what was looked up for it.
            sums: adds up over all ranks, which call this together.
        """
        found = None if self.standardise is None else self._seen_numbers(batch, embedded)
        if self.interest is not None and self.interest.observes:  # the keys that the step has read
            numbers = None if self.standardise is None or found is None else self.standardise(found)
            keys, _, _ = self._sequence(batch, embedded, numbers)
            self.interest.observe(keys, batch.mask, sums)
        if self.standardise is not None and found is not None:
            self.standardise.observe(found[batch.target_mask], sums)
        if self.features is not None and batch.features is not None:
            self.features.observe(batch.features, batch.mask, sums)

    def _sequence(
        self, batch: Batch, embedded: Embedded, numbers: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the (B, L, d) keys and (B, C, d) targets that the interest model reads, and perhaps the keys' sums."""
        if embedded.history is None or embedded.targets is None:
            raise ValueError(f"kind {self.spec.kind!r} reads embeddings, but history or targets is None")
        (keys, sums), targets = self._keys(batch, embedded.history), embedded.targets
        if self.features is None:
            return keys, targets, sums
        return *self._moved(batch, embedded, keys, targets, numbers), None

    def _moved(
        self, batch: Batch, embedded: Embedded, keys: Tensor, targets: Tensor, numbers: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return keys and targets, moved by the features of behaviours and candidates."""
        assert self.features is not None
        assert batch.features is not None
        shown, past = embedded.shown_features, embedded.past_features
        if shown is None or past is None:  # no feature is a text
            shown = keys.new_zeros(*batch.features.shown_keys.shape, 0)
            past = keys.new_zeros(*batch.features.past_keys.shape, 0)
        standardised = targets[..., :0] if numbers is None else numbers
        of_targets = self.features.move_targets(standardised, batch.features, shown)
        of_keys = self.features.move_keys(self.standardise, batch.features, past)
        return keys if of_keys is None else keys + of_keys, targets if of_targets is None else targets + of_targets

    def _numbers(self, batch: Batch, counts: MatchCounts | None) -> Tensor:
        """Return (B, C, n) what is known of the candidates in numbers: matches, statistics, features of callers."""
        parts = [] if counts is None else [match_features(counts, batch)]
        dtype = next(self.head.parameters()).dtype
        if self.spec.numbers:
            parts.append(batch.numbers.to(dtype))
        if batch.features is not None:
            parts.append(batch.features.shown_numbers.to(dtype))
        return torch.cat(parts, dim=-1)

    def _seen(self, batch: Batch, embedded: Embedded) -> tuple[Tensor | None, Tensor | None]:
        """Return what matches add to the attention logits, and the standardised numbers."""
        if embedded.seen is None:
            counts, logits = self._matched(batch)
            numbers = None if self.standardise is None else self._numbers(batch, counts)
        else:
            numbers, matches = embedded.seen.numbers, embedded.seen.matches
            logits = None if self.match_logits is None or matches is None else self.match_logits(matches)
        return logits, None if self.standardise is None or numbers is None else self.standardise(numbers)

    def _seen_numbers(self, batch: Batch, embedded: Embedded) -> Tensor | None:
        return self._numbers(batch, self._matched(batch)[0]) if embedded.seen is None else embedded.seen.numbers

    def _matched(self, batch: Batch) -> tuple[MatchCounts | None, Tensor | None]:
        """Return the matches' counts, and what they add to the attention logits."""
        if not self.spec.match:
            return None, None
        parameter = next(self.head.parameters())
        if native.usable(parameter):
            return compiled_matches(batch, self.match_logits, self._matched_columns)
        matches = find_matches(batch, parameter.dtype, self._matched_columns)
        return count_matches(matches, batch), self.match_logits(matches) if self.match_logits is not None else None

    def _keys(self, batch: Batch, history: Tensor | tuple[Rows, ...]) -> tuple[Tensor, Tensor | None]:
        """Return the (B, L, d) keys, and their (B, d) sums where they come with them."""
        assert self.actions is not None
        assert self.gaps is not None
        actions = batch.history_actions
        if isinstance(history, Tensor) and native.usable(history):
            own = self.actions.weight, self.gaps.weight
            return native.move_keys(history, actions, batch.gap_buckets, *own), None
        rows = torch.where(actions == 0, 0, 1 + actions % (ACTION_ROWS - 1))
        if isinstance(history, Tensor):
            return history + _looked_up(self.actions, rows) + _looked_up(self.gaps, batch.gap_buckets), None
        added = [Rows(self.actions.weight, rows.flatten()), Rows(self.gaps.weight, batch.gap_buckets.flatten())]
        return embed_keys(history, added, batch.mask)


class Cross(nn.Module):
    """w · (x ⊙ (W x + b) + x): products of every two features, a cross layer of DCN-V2 (Wang et al., WWW 2021, eq. 1).

    w starts at zero, so that it adds nothing at first.

    Args:
        width: of x.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.products = nn.Linear(width, width)
        self.out = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Return the (...) logits of (..., width) features; without gradients, the same to the bit in any batch."""
        if native.usable(features):
            layers = [
                native.Layer(self.products.weight, self.products.bias, crossed=True),
                native.Layer(self.out.weight, features.new_zeros(1)),
            ]
            return native.dense(layers, features.flatten(0, -2)).view(features.shape[:-1])
        crossed = features * batch_invariant.linear(self.products, features) + features
        return batch_invariant.matmul(crossed, self.out.weight.T).squeeze(-1)


def build_head(width: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Return the MLP from `width` features to one logit that starts near `PRIOR_LOGIT`.

    LayerNorm, not BatchNorm: a candidate's score must not depend on what is scored beside it.
    """
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), nn.LayerNorm(units), nn.PReLU()]
        width = units
    last = nn.Linear(width, 1)
    nn.init.constant_(last.bias, PRIOR_LOGIT)
    return nn.Sequential(*layers, last)


def head_logits(head: nn.Sequential, features: Tensor) -> Tensor:
    """Return the (...) logits of (..., width) features; without gradients, the same to the bit in any batch."""
    if not native.usable(features):
        return batch_invariant.mlp(head, features).squeeze(-1)
    layers = list(head)
    kernel = [_for_kernel(*layers[at : at + 3]) for at in range(0, len(layers), 3)]
    return native.dense(kernel, features.flatten(0, -2)).view(features.shape[:-1])


def _for_kernel(linear: nn.Module, norm: nn.Module | None = None, leak: nn.Module | None = None) -> native.Layer:
    assert isinstance(linear, nn.Linear)
    if not isinstance(norm, nn.LayerNorm) or not isinstance(leak, nn.PReLU):
        return native.Layer(linear.weight, linear.bias)
    return native.Layer(linear.weight, linear.bias, (norm.weight, norm.bias, norm.eps), leak.weight)


def _looked_up(table: nn.Embedding, rows: Tensor) -> Tensor:
    """Return what `table(rows)` returns; its backward takes a third of the time on a CPU."""
    return table.weight.index_select(0, rows.flatten()).view(*rows.shape, -1)


def _zeros(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width)
    nn.init.zeros_(table.weight)
    return table
