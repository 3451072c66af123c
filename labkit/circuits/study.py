"""What a circuit was found on, so that parts of it can be run again: the lab and its state, the texts, all parts there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labkit.circuits.contrasts import Contrast, naming
from labkit.circuits.edges import Edges
from labkit.circuits.parts import Base, Parts, run_sets
from labkit.circuits.rewiring import rows_needed, run_edges
from labkit.errors import BadInput, Unavailable
from labkit.trace import running
from labkit.trace.lab_like import LabLike
from labkit.trace.past import State, state_of


@dataclass(frozen=True)
class Span:
    """The metric of both texts of each contrast, (contrasts,), and what is made of others of it.

    Effects of several pairs are one number: each pair's change, in the direction from its corrupted to its clean text, summed
    and divided by the sum of what the two texts are apart. A pair that the metric hardly tells apart so counts for little.
    """

    clean: np.ndarray
    corrupted: np.ndarray

    def share(self, values: np.ndarray) -> np.ndarray:
        """(contrasts, ...) the metric, as effects (...): 0 is the corrupted result, 1 the clean one."""
        return self.share_of(values - self.corrupted.reshape(-1, *[1] * (values.ndim - 1)))

    def share_of(self, changes: np.ndarray) -> np.ndarray:
        """(contrasts, ...) changes of the metric, as effects (...)."""
        apart = self.clean - self.corrupted
        found: np.ndarray = np.tensordot(np.sign(apart), changes, 1) / np.abs(apart).sum()
        return found + 0.0  # no -0.0


@dataclass(frozen=True)
class Study:
    """parts: what a circuit may be made of, which are numbered. state: of the model when its circuit was found."""

    lab: LabLike
    contrasts: tuple[Contrast, ...]
    parts: Parts | Edges
    state: State

    def values(
        self, base: Base, sets: Sequence[np.ndarray], advance: running.Progress | None = None
    ) -> tuple[np.ndarray, Span]:
        """(contrasts, sets) the metric of each base text, where the parts of each set have the other text's activation.

        Raises Unavailable where the model has been changed since, LabClosed where it is gone.
        """
        found, clean, corrupted = [], [], []
        with self.lab.turn():
            model = self.lab.model
            now = state_of(model)
            if now.changes != self.state.changes or now.weights != self.state.weights:
                raise Unavailable(
                    f"{self.lab.name} is not what it was when this circuit was found: edits or an adapter were put on or taken "
                    "off, or weights written; find the circuit anew."
                )
            for number, contrast in enumerate(self.contrasts):
                with naming(number, len(self.contrasts)):
                    if isinstance(self.parts, Edges):
                        values, both = run_edges(model, self.lab.anatomy, self.parts, contrast, base, sets, advance)
                    else:
                        values, both = run_sets(model, self.lab.anatomy, self.parts, contrast, base, sets, advance)
                found.append(values)
                clean.append(both.clean_value)
                corrupted.append(both.corrupted_value)
        return np.array(found), Span(np.array(clean), np.array(corrupted))

    def tokens(self, sets: Sequence[np.ndarray]) -> int:
        """How many tokens are run where each set is run on every pair."""
        rows = len(sets)
        if isinstance(self.parts, Edges):
            rows = sum(rows_needed(self.parts, numbers) for numbers in sets)
        return rows * sum(len(contrast.clean) for contrast in self.contrasts)

    def shares(self, base: Base, sets: Sequence[np.ndarray], title: str, progress: bool) -> np.ndarray:
        """(sets,) as effects; what stands there twice is run once. An interrupt is one: nothing comes of half the runs."""
        if not sets:
            return np.zeros(0)
        place: dict[bytes, int] = {}
        of = [place.setdefault(np.sort(numbers).tobytes(), len(place)) for numbers in sets]
        once = [sets[of.index(number)] for number in range(len(place))]
        with running.Progress(title, len(once) * len(self.contrasts), "run", progress) as bar:
            values, span = self.values(base, once, bar)
        if bar.interrupted:
            raise KeyboardInterrupt
        return np.asarray(span.share(values)[of])

    def others(self, numbers: np.ndarray) -> np.ndarray:
        """All parts but these."""
        return np.setdiff1d(np.arange(self.parts.size), numbers)

    def drawn(self, numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """As many parts of each kind, drawn from all."""
        kinds = self.parts.kinds()
        return np.concatenate(
            [
                rng.choice(np.flatnonzero(kinds == kind), count, replace=False)
                for kind, count in zip(*np.unique(kinds[numbers], return_counts=True), strict=True)
            ]
            or [np.zeros(0, np.int64)]
        )


def check_positions(contrasts: Sequence[Contrast]) -> int:
    """The number of tokens that all texts have. Raises BadInput where they differ."""
    lengths = sorted({len(contrast.clean) for contrast in contrasts})
    if len(lengths) > 1:
        raise BadInput(
            f"Pairs of {lengths[0]} to {lengths[-1]} tokens have no positions in common; give pairs of one length, or "
            "positions=False."
        )
    return lengths[0]
