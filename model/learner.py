"""One arm's model in training: predicts, then learns, in one pass over its stream."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from xxhash import xxh3_64_hexdigest

from model.embedding.admission import Admission
from model.embedding.learned import Leaf, LearnedTable
from model.embedding.shards import SHARDS, Rank, part_of, rows_of
from model.errors import CheckpointError
from model.example import LATE_CLICK, Example
from model.features.schema_change import adapted, described
from model.interest.base import ExtraLoss, Outcome
from model.losses import log_losses
from model.network import Network
from model.peers import ALONE, Peers, WholeStep
from model.predict import (
    Predictions,
    batch_keys,
    by_example,
    embedded,
    embedded_to_learn,
    model_batch,
    model_fingerprint,
    table_dims,
    table_initials,
)
from model.serialization.update import Tensors, Update, Version
from model.spec import ModelSpec, OptimSpec
from state.behavior import behaviors
from state.feature import Feature

WHOLE_BATCH = 256
"""Samples of a step that has full weight."""
_CORRECTION = 0.05
"""Share of a step's error in the mean prediction that the intercept of what predicts makes up for at once."""
_PRIOR_SAMPLES = 200
"""Samples that the prior is worth: at first the intercept is the click rate so far, as if these had come before."""

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_NOBODY = Example(
    behaviors([]),
    0,
    np.zeros(0, np.uint64),
    np.zeros(0, np.uint32),
    np.zeros(0, np.float32),
    positions=np.zeros(0, np.uint16),
)
"""What a rank without data brings to a step: a user without a history, to whom nothing is shown."""


class Learner:
    """Dense parameters under Adam, embedding tables under row-wise Adagrad, one step a batch.

    A step is on the mean log loss over at least `WHOLE_BATCH` samples, so one of fewer weighs less. In a stream clicks
    come one by one and the rest ten at a time: if all steps weighed alike, clicks would seem ten times as frequent.

    The dense gradient is clipped by its norm; the tables' is not, because Adagrad bounds a row's step by
    itself. A step whose loss or gradient is not finite is left out entirely.

    A label may have been learned as 0 before it is known to be 1 (`LATE_CLICK`). Its loss is then the difference of the
    two, so that what was learned in both steps together is one click.

    What predicts, and is published, is an exponential average of the dense parameters (Polyak and Juditsky, 1992), with
    the tables as they are. An average lags behind the tables, so its mean prediction would drift away from the mean
    label: its intercept is corrected a little in each step. Until the first average the last layer of what predicts is
    zero: all candidates get the prior, since untrained weights would tell them apart at random.

    With `peers`, several ranks take each step together, each on a batch of its own, and come to what one would come to
    on all of it: a rank has the table rows that it owns, and all dense parameters. All that is said to be done in a
    step is then done by all of them, in the same order.

    Attributes:
        version: epoch, and number of deltas in it.
        steps: steps taken.
        skipped: steps left out because a loss or a gradient was not finite.
        changed: whether a step was taken since the last delta.
    """

    def __init__(
        self,
        spec: ModelSpec,
        optim: OptimSpec | None = None,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        peers: Peers = ALONE,
    ) -> None:
        self.version = Version()
        self.steps = 0
        self.skipped = 0
        self.changed = False
        self._unclicked = False
        self._followed = 0
        self.fingerprint = model_fingerprint(spec, seed)
        self._spec = spec
        self._seed = seed
        self._optim = optim or OptimSpec()
        self._device = torch.device(device)
        self._peers = peers
        self._network = Network(spec, seed=seed).to(self._device)
        self._served = Network(spec, seed=seed).to(self._device).requires_grad_(False)
        if self._served.head:
            last = self._served.head[-1]
            assert isinstance(last, torch.nn.Linear)
            torch.nn.init.zeros_(last.weight)
        # Adam refuses an empty list; a kind without parameters gives it one that nobody reads.
        self._trainable = list(self._network.parameters()) or [torch.nn.Parameter(torch.zeros((), device=self._device))]
        self._adam = torch.optim.Adam(self._trainable, lr=self._optim.dense_lr, fused=True)
        initials = table_initials(spec, seed)
        self._max_rows = rows_of(self._optim.max_rows, peers.rank.ranks)
        self._tables = {
            name: LearnedTable(
                dim,
                initial=initials[name],
                max_rows=self._max_rows,
                admission=Admission(self._optim.admit_after, self._optim.admission_keys),
                expire_after_s=self._optim.expire_after_s,
                device=self._device,
            )
            for name, dim in table_dims(spec).items()
        }

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each table, of this rank alone."""
        return {name: len(table) for name, table in self._tables.items()}

    @property
    def key_counts(self) -> dict[str, Mapping[str, int]]:
        """Table → how often keys were admitted, refused, and so on: `KEY_EVENTS`."""
        return {name: table.counts for name, table in self._tables.items()}

    def learn(self, examples: Sequence[Example], whole: WholeStep | None = None) -> Predictions:
        """Predict every label, then take one step.

        Returns the (C,) float32 predictions of each example, made before the step. They can be NaN only when
        the parameters were made so, which skipping such steps prevents.

        Args:
            examples: to learn from; with peers there may be none on this rank.
            whole: what the batches of all ranks are together; None where there is no other rank.

        Raises:
            ValueError: when an example has no labels.
        """
        if not examples and whole is None:
            return []
        # Users with as many candidates side by side are computed together, without padding.
        order = sorted(range(len(examples)), key=lambda place: len(examples[place].items))
        examples = [examples[place] for place in order] or [_NOBODY]
        batch = model_batch(self._spec, examples, self._device)
        if batch.labels is None:
            raise ValueError("every example to learn from needs labels")
        keys = batch_keys(batch)
        if whole is None:
            whole = WholeStep(sum(len(each.items) for each in examples), max(example.ts for example in examples))
        for table in self._tables.values():
            table.advance(whole.now)
        taken = self._peers.take(self._tables, keys)
        found = self._network.look(batch, embedded_to_learn(batch, taken))
        with torch.inference_mode():
            served = self._served(batch, found)
        if whole.labels:
            logits, extra = self._network.learn(batch, found)
            if self._step(Outcome(logits, batch.labels, batch.target_mask), extra, taken, whole):
                self._network.observe(batch, found, self._peers)
                self._follow(served[batch.target_mask], batch.labels[batch.target_mask], whole)
        predicted = dict(zip(order, by_example(served, batch, examples), strict=False))
        return [predicted[place] for place in range(len(order))]

    def predict(self, examples: Sequence[Example]) -> Predictions:
        """Return the (C,) float32 predictions of each example, and learn nothing."""
        if not examples and self._peers.rank.ranks == 1:
            return []
        asked = examples or [_NOBODY]
        with torch.inference_mode():
            batch = model_batch(self._spec, asked, self._device)
            vectors = self._peers.gather(self._tables, batch_keys(batch))
            predicted = by_example(self._served(batch, embedded(batch, vectors)), batch, asked)
        return predicted[: len(examples)]

    def begin_epoch(self, epoch: int) -> None:
        """Start a new epoch after a restart, at version 0. A base must be published before any delta.

        Raises:
            ValueError: when the epoch is not above the present one.
        """
        if epoch <= self.version.epoch:
            raise ValueError(f"epoch {epoch} does not follow epoch {self.version.epoch}")
        self.version = Version(epoch, 0)
        self._clear_touched()

    def delta(self, arm: str) -> Update:
        """Return the dense parameters, the rows touched since the last delta and the keys gone, as the next version."""
        self.version = Version(self.version.epoch, self.version.version + 1)
        tensors = self._published()
        for name, table in self._tables.items():
            tensors[f"{name}/keys"], tensors[f"{name}/values"] = table.touched()
            if len(gone := table.gone()):
                tensors[f"{name}/gone"] = gone
        self._clear_touched()
        return Update(arm, "delta", *self.version, self.fingerprint, tensors, self._piece)

    def base(self, arm: str) -> Update:
        """Return all parameters as they are now, under the version of the last delta.

        What was learned since that delta is in it as well, and comes again, as absolute values, in the next
        one: a scorer arrives at the same parameters whether it took this base or the deltas.
        """
        tensors = self._published()
        for name, table in self._tables.items():
            tensors[f"{name}/keys"], tensors[f"{name}/values"] = table.publish_all()
        return Update(arm, "base", *self.version, self.fingerprint, tensors, self._piece)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return all that `load_state` needs to go on exactly as this learner would, as arrays by name.

        Of a rank other than the first, its tables alone: all else is the same on all ranks. `merged_states` puts the
        states of all ranks together.
        """
        tables = {
            f"{name}/{part}": array for name, table in self._tables.items() for part, array in table.state().items()
        }
        return tables if self._peers.rank.number else self._dense_state() | tables

    def dense_digest(self) -> str:
        """Return a checksum of all that must be the same on all ranks, to the bit."""
        return xxh3_64_hexdigest(b"".join(array.tobytes() for _, array in sorted(self._dense_state().items())))

    def _dense_state(self) -> dict[str, npt.NDArray[Any]]:
        counters = [*self.version, self.steps, self.skipped, self.changed, self._unclicked, self._followed]
        state: dict[str, npt.NDArray[Any]] = {
            "fingerprint": np.frombuffer(self.fingerprint.encode(), np.uint8),
            "features": np.frombuffer(msgspec.json.encode(self._spec.features), np.uint8),
            "counters": np.array(counters, np.int64),
        }
        state |= {f"network/{name}": tensor for name, tensor in _arrays(self._network).items()}
        state |= {f"served/{name}": tensor for name, tensor in self._dense().items()}
        for name, parameter in self._network.named_parameters():
            for moment, tensor in self._adam.state.get(parameter, {}).items():
                state[f"adam/{moment}/{name}"] = tensor.cpu().numpy().copy()
        return state

    @torch.no_grad()
    def load_state(self, state: Tensors) -> dict[str, str]:
        """Take over the state of another learner of the same model; this one must not have learned anything.

        It may have read other features: what is new begins neutral, what is gone goes. With peers, `state` is that of
        all ranks (`merged_states`), and this one takes over the rows that it owns.

        Returns:
            Which features were added, removed and changed, by these words.

        Raises:
            CheckpointError: when the state is of another model or incomplete; build a new learner then.
        """
        changed_features: dict[str, str] = {}
        try:
            fingerprint = state["fingerprint"].tobytes().decode()
            known = "features" in state or fingerprint == self.fingerprint  # versions without features wrote none
            stored = state["features"].tobytes() if known else b"[]"
            features = msgspec.json.decode(stored, type=tuple[Feature, ...])
            if fingerprint != self.fingerprint:
                before = msgspec.structs.replace(self._spec, features=features)
                if fingerprint != model_fingerprint(before, self._seed):
                    raise CheckpointError(
                        f"it is of model {fingerprint}, and this is {self.fingerprint}: {_changed(fingerprint, self)}"
                    )
                changed_features = described(features, self._spec.features)
                state = self._adapted(state, before)
            epoch, version, self.steps, self.skipped, changed, unclicked, followed = state["counters"].tolist()
            for part, network in (("network", self._network), ("served", self._served)):
                for name, tensor in network.state_dict().items():
                    tensor.copy_(torch.tensor(state[f"{part}/{name}"]))
            for name, parameter in self._network.named_parameters():
                if f"adam/step/{name}" in state:
                    moments = {moment: torch.tensor(state[f"adam/{moment}/{name}"]) for moment in _MOMENTS}
                    self._adam.state[parameter] = {
                        moment: tensor.to(self._device) for moment, tensor in moments.items()
                    }
            for name, table in self._tables.items():
                table.load_state(part_of(_under(f"{name}/", state), self._peers.rank, self._max_rows))
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"not the whole state of such a learner: {error!r}") from None
        self.version, self.changed, self._unclicked = Version(epoch, version), bool(changed), bool(unclicked)
        self._followed = followed
        return changed_features

    def _adapted(self, state: Tensors, before: ModelSpec) -> dict[str, npt.NDArray[Any]]:
        """Return the state of a model with other features as one of this model."""
        old, result = Network(before, seed=self._seed), dict(state)
        for part in ("network", "served"):
            saved = _under(f"{part}/", state)
            initial = _arrays(self._network if part == "network" else self._served)
            result |= {
                f"{part}/{name}": each for name, each in adapted(saved, initial, old.axes, self._network.axes).items()
            }
        initial = {name: np.zeros_like(each) for name, each in _arrays(self._network).items()}
        for moment in ("exp_avg", "exp_avg_sq"):
            saved = _under(f"adam/{moment}/", state)
            moments = adapted(saved, initial, old.axes, self._network.axes)
            result |= {f"adam/{moment}/{name}": each for name, each in moments.items() if name in saved}
        if "feature" in self._tables and "feature/keys" not in state:
            result |= {f"feature/{part}": array for part, array in self._tables["feature"].state().items()}
        return result

    def _step(self, outcome: Outcome, extra: ExtraLoss | None, taken: Mapping[str, Leaf], whole: WholeStep) -> bool:
        """Take a step, and return whether it was taken: not when it is not finite."""
        valid = outcome.mask
        losses = log_losses(outcome.logits[valid], outcome.labels[valid])
        loss = losses.sum() / max(whole.labels, WHOLE_BATCH)
        if extra is not None and len(losses):
            loss = loss + extra(outcome) * (len(losses) / max(whole.labels, WHOLE_BATCH))
        self._adam.zero_grad()
        if loss.requires_grad and len(losses):
            loss.backward()  # type: ignore[no-untyped-call]
        moved = self._peers.collect(self._tables, taken)
        # Squares, because Adagrad adds them up: one that overflows would stop its row for good.
        squares = [gradient.square().sum() for each in moved.values() if (gradient := each.vectors.grad) is not None]
        checks = self._peers.reduce(self._trainable, torch.stack([loss.detach(), sum(squares, loss.new_zeros(()))]))
        norm = torch.nn.utils.clip_grad_norm_(self._trainable, self._optim.clip_norm)
        if not torch.isfinite(torch.stack([norm, *checks])).all():
            self.skipped += 1
            return False
        self._adam.step()
        for name, table in self._tables.items():
            table.step(moved[name], lr=self._optim.embedding_lr)
        self.steps += 1
        self.changed = True
        return True

    def _follow(self, logits: Tensor, labels: Tensor, whole: WholeStep) -> None:
        """Have what predicts follow what has learned, once an unclicked item has come.

        Until the first windows close, clicks are all that a stream has: a model that followed would predict certainty.
        """
        predicted = torch.sigmoid(logits)
        # Of a late click, only the difference between its two labels is still missing.
        error = torch.where(labels == LATE_CLICK, 1.0, labels - predicted).sum()
        slope = (predicted * (1 - predicted)).sum()
        unclicked = (labels == 0).sum()
        error, slope, unclicked = self._peers.total(torch.stack([error, slope, unclicked]))
        self._unclicked = self._unclicked or bool(unclicked)
        if self._unclicked or not self._optim.ema_decay:
            self._average()
            self._correct(error, slope, whole.labels)

    @torch.no_grad()
    def _average(self) -> None:
        """Move the parameters that predict towards those that have just learned; at first faster, from nothing."""
        kept = min(self._optim.ema_decay, (1 + self.steps) / (10 + self.steps))
        served: list[Tensor] = list(self._served.parameters())
        learned: list[Tensor] = list(self._network.parameters())
        if served:
            torch._foreach_lerp_(served, learned, 1.0 - kept)
        for ours, theirs in zip(self._served.buffers(), self._network.buffers(), strict=True):
            ours.copy_(theirs)

    @torch.no_grad()
    def _correct(self, error: Tensor, slope: Tensor, labels: int) -> None:
        """Move the intercept of what predicts by a share of a Newton step on its own loss.

        Args:
            error: the sum of labels less predictions.
            slope: the sum of the predictions' variances.
            labels: how many these are of.
        """
        intercept = self._served.intercept
        if intercept is None or not self._optim.ema_decay:
            return
        self._followed += labels
        weight = min(1.0, labels / WHOLE_BATCH)
        share = max(_CORRECTION * weight, labels / (_PRIOR_SAMPLES + self._followed))
        intercept.add_(share * (error / labels) / (slope / labels).clamp_min(1e-3))

    def _dense(self) -> dict[str, npt.NDArray[Any]]:
        """Return the dense parameters that predict."""
        return _arrays(self._served)

    def _published(self) -> dict[str, npt.NDArray[Any]]:
        """Return what an update has beside the rows of tables: the first rank publishes the dense parameters."""
        return {} if self._peers.rank.number else self._dense()

    @property
    def _piece(self) -> Rank:
        """Which piece of an update this rank publishes; ranks that own no rows publish none."""
        number, ranks = self._peers.rank
        return Rank(number, min(ranks, SHARDS))

    def _clear_touched(self) -> None:
        for table in self._tables.values():
            table.clear_touched()
        self.changed = False


def _under(prefix: str, state: Tensors) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}


def _arrays(network: Network) -> dict[str, npt.NDArray[Any]]:
    return {name: tensor.cpu().numpy().copy() for name, tensor in network.state_dict().items()}


def _changed(fingerprint: str, learner: Learner) -> str:
    """Return why a state's fingerprint differs from the learner's."""
    (before, _, seed), (now, _, present) = fingerprint.rpartition("-"), learner.fingerprint.rpartition("-")
    return f"the seed was {seed} and is {present}" if before == now else "the network or its sizes were changed"
