"""Where in a corpus each feature is active: counted once, kept small, read in an instant.

Of every feature: on how many tokens it is active, how its activations are spread, in which kinds of text, and a few
stretches of text: those where it is most active, and some drawn over the rest of its range, since the strongest examples
alone flatter a feature (Bolukbasi et al. 2021).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from labkit.errors import BadInput, BadModelFile, Unavailable
from labkit.sae.dictionary import SAE, checked_sae
from labkit.sae.reading import defined, ids_for, residuals
from labkit.trace.input import as_kinds

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

__all__ = ["Index", "index"]

TOP, SPREAD = 5, 3  # examples: the strongest, and one from each of these parts of the range below
PARTS = ((0.6, 0.9), (0.3, 0.6), (0.05, 0.3))  # of the feature's largest activation
BEFORE, AFTER = 16, 7  # tokens of an example on either side of its peak
WINDOW = BEFORE + 1 + AFTER
EDGES = tuple(float(2 ** (i / 2)) for i in range(-4, 25))  # of the histogram; what lies beyond counts in the outer bins
LEAST_TOKENS = 1_000
FILE = "index.safetensors"
FORMAT = "labkit sae index 1"
NO_SIGNS = (
    "{} may be below 0 and so have two sides each, and an index keeps examples of one; look at them in texts instead: "
    "lk.sae.features(lab, sae, texts)."
)


@dataclass(frozen=True, eq=False)
class Index:
    """The arrays behind dashboards and search, for F features, E examples each, and windows of W tokens.

    counts: (F,) tokens it is active on.  largest: (F,) highest activation.  histogram: (F, len(EDGES) - 1) tokens by activation.
    kind_sums: (F, K) activation summed in each kind of text.  ids: (F, E, W) token ids, uint16 or, for larger vocabularies,
    uint32; `nothing` where there is none.
    activations: (F, E, W) uint8, in 255ths of the example's peak.  peaks: (F, E) its place in the window.  values: (F, E)
    activation at the peak, 0 where there is no example; the first TOP are the strongest.  of_kind: (F, E) kind of text.
    kinds: names.  kind_tokens: tokens read of each, where features are defined.  tokens: their sum.  of: the fingerprint of
    the autoencoder whose features these are; "" where it is not known.
    """

    counts: np.ndarray
    largest: np.ndarray
    histogram: np.ndarray
    kind_sums: np.ndarray
    ids: np.ndarray
    activations: np.ndarray
    peaks: np.ndarray
    values: np.ndarray
    of_kind: np.ndarray
    kinds: tuple[str, ...]
    kind_tokens: tuple[int, ...]
    of: str = ""

    @property
    def nothing(self) -> int:
        """What stands in ids where there is no token."""
        return nothing(self.ids.dtype)

    @property
    def tokens(self) -> int:
        return sum(self.kind_tokens)

    @property
    def density(self) -> np.ndarray:
        """(F,) share of the corpus's tokens each feature is active on."""
        return self.counts / self.tokens

    def save(self, path: Path) -> None:
        """Write it as one safetensors file, whole or not at all."""
        from safetensors.numpy import save_file

        path = Path(path)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        about = {
            "format": FORMAT,
            "kinds": json.dumps(self.kinds),
            "kind_tokens": json.dumps(self.kind_tokens),
            "of": self.of,
        }
        part = path.with_name(path.name + ".part")
        try:
            save_file(arrays, part, metadata=about)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path) -> Index:
        """Read what `save` wrote. Raises BadModelFile for anything else."""
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                if about.get("format") != FORMAT:
                    raise ValueError("another format")
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
            kinds, counts = json.loads(about["kinds"]), json.loads(about["kind_tokens"])
            found = Index(**arrays, kinds=tuple(kinds), kind_tokens=tuple(counts), of=about.get("of", ""))
            _check(found)
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise BadModelFile(f"{path.name} is not an index of features, or damaged; make it again.") from error
        return found


_ARRAYS = (
    "counts",
    "largest",
    "histogram",
    "kind_sums",
    "ids",
    "activations",
    "peaks",
    "values",
    "of_kind",
)


def nothing(kind: np.dtype[np.unsignedinteger]) -> int:
    """The number that stands for no token among ids of a type: its largest."""
    return int(np.iinfo(kind).max)


def id_type(vocabulary: int) -> np.dtype[np.unsignedinteger]:
    """The smallest type of number that holds all ids and one more."""
    return np.dtype(np.uint16 if vocabulary < 2**16 else np.uint32)


def _check(found: Index) -> None:
    """Raises ValueError where the arrays of a file don't go together."""
    features, kinds = len(found.counts), len(found.kinds)
    examples = (features, TOP + SPREAD)
    shapes = {
        "counts": (features,),
        "largest": (features,),
        "histogram": (features, len(EDGES) - 1),
        "kind_sums": (features, kinds),
        "ids": (*examples, WINDOW),
        "activations": (*examples, WINDOW),
        "peaks": examples,
        "values": examples,
        "of_kind": examples,
    }
    for name, shape in shapes.items():
        if getattr(found, name).shape != shape:
            raise ValueError(f"{name} is not of shape {shape}")
    whole = ("counts", "histogram", "peaks", "of_kind")
    if found.ids.dtype.kind != "u" or any(getattr(found, name).dtype.kind not in "iu" for name in whole):
        raise ValueError("numbers of another kind")
    if len(found.kind_tokens) != kinds or not all(isinstance(each, str) for each in found.kinds):
        raise ValueError("kinds of text and their counts differ")
    if not all(isinstance(each, int) for each in found.kind_tokens) or found.tokens < 1:
        raise ValueError("kinds of text and their counts differ")
    there = found.values > 0
    ends = (found.ids != found.nothing).sum(-1)
    if bool((found.peaks >= ends)[there].any()) or bool((found.of_kind >= kinds)[there].any()):
        raise ValueError("an example's peak lies outside of it")


class Collector:
    """Takes pieces of text with the features found in them, and makes the index. For `index`, and for the recipe."""

    def __init__(self, features: int, kinds: Sequence[str], seed: int = 0, *, of: str = "") -> None:
        self.features, self.kinds, self.seed, self.of = features, tuple(kinds), seed, of
        self.counts = np.zeros(features, dtype=np.int64)
        self.histogram = np.zeros((features, len(EDGES) - 1), dtype=np.int64)
        self.kind_sums = np.zeros((features, len(kinds)))
        self.kind_tokens = np.zeros(len(kinds), dtype=np.int64)
        self.pieces: list[_Part] = []
        self.best: list[np.ndarray] = []  # per part: feature, part, piece, position, value of each piece's peaks

    def add(
        self, ids: np.ndarray, kept: np.ndarray, kinds: np.ndarray, indices: np.ndarray, values: np.ndarray
    ) -> None:
        """ids: (pieces, L), of the same type in all calls, `nothing` of it after the end. kept: (pieces, L) bool: where
        features are defined. kinds: (pieces,).

        indices, values: (kept.sum(), k), in the order of kept; values of 0 are not active.
        """
        if bool((values < 0).any()):
            raise Unavailable(NO_SIGNS.format("These features"))
        piece, position = np.nonzero(kept)
        k = indices.shape[1]
        feature = np.where(values > 0, indices, 0).reshape(-1).astype(np.int64)
        value = values.reshape(-1).astype(np.float32)
        working = value > 0
        row = np.repeat(np.arange(len(piece)), k)[working]
        feature, value = feature[working], value[working]
        self.counts += np.bincount(feature, minlength=self.features)
        bins = np.clip(np.searchsorted(EDGES, value, side="right") - 1, 0, len(EDGES) - 2)
        at = feature * (len(EDGES) - 1) + bins
        self.histogram += np.bincount(at, minlength=self.histogram.size).reshape(self.histogram.shape)
        of_kind = kinds[piece[row]].astype(np.int64)
        sums = np.bincount(feature * len(self.kinds) + of_kind, weights=value, minlength=self.kind_sums.size)
        self.kind_sums += sums.reshape(self.kind_sums.shape)
        self.kind_tokens += np.bincount(kinds[piece], minlength=len(self.kinds))
        # of each feature in each piece only the peak can become an example, so that no two are of one text
        order = np.lexsort((-value, feature * len(ids) + piece[row]))
        key = (feature * len(ids) + piece[row])[order]
        first = order[np.flatnonzero(np.r_[True, key[1:] != key[:-1]])] if len(key) else order
        entry = np.empty(len(first), dtype=_ENTRY)
        entry["feature"], entry["value"], entry["row"] = feature[first], value[first], row[first]
        entry["part"] = len(self.pieces)
        self.best.append(entry)
        self.pieces.append(_Part(ids, kept, kinds, piece, position, indices, values))

    def finish(self) -> Index:
        best = np.concatenate(self.best) if self.best else np.empty(0, dtype=_ENTRY)
        order = np.lexsort((-best["value"], best["feature"]))
        best = best[order]
        starts = np.searchsorted(best["feature"], np.arange(self.features + 1))
        examples = TOP + SPREAD
        shape = (self.features, examples)
        kind_of_id = self.pieces[0].ids.dtype if self.pieces else id_type(0)
        ids = np.full((*shape, WINDOW), nothing(kind_of_id), dtype=kind_of_id)
        activations = np.zeros((*shape, WINDOW), dtype=np.uint8)
        peaks, of_kind = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
        values = np.zeros(shape, dtype=np.float32)
        largest = np.zeros(self.features, dtype=np.float32)
        draw = np.random.default_rng(self.seed)
        for feature in range(self.features):
            mine = best[starts[feature] : starts[feature + 1]]
            if not len(mine):
                continue
            largest[feature] = mine["value"][0]
            for slot, entry in _chosen(mine, draw):
                part = self.pieces[entry["part"]]
                window, heights, peak, kind = part.window(int(entry["row"]), feature)
                ids[feature, slot, : len(window)] = window
                activations[feature, slot, : len(window)] = np.round(255 * heights / entry["value"])
                peaks[feature, slot], of_kind[feature, slot] = peak, kind
                values[feature, slot] = entry["value"]
        return Index(
            self.counts.astype(np.int32),
            largest,
            self.histogram.astype(np.int32),
            self.kind_sums.astype(np.float32),
            ids,
            activations,
            peaks,
            values,
            of_kind,
            self.kinds,
            tuple(int(n) for n in self.kind_tokens),
            self.of,
        )


_ENTRY = np.dtype([("feature", np.int32), ("value", np.float32), ("row", np.int32), ("part", np.int32)])


def _chosen(mine: np.ndarray, draw: np.random.Generator) -> list[tuple[int, np.void]]:
    """(slot, entry) of a feature's examples; mine: the peaks of all pieces, the strongest first."""
    found = list(enumerate(mine[:TOP]))
    rest = mine[TOP:]
    for part, (low, high) in enumerate(PARTS):
        share = rest["value"] / mine["value"][0]
        inside = rest[(share >= low) & (share < high)]
        if len(inside):
            found.append((TOP + part, inside[draw.integers(len(inside))]))
    return found


@dataclass(frozen=True)
class _Part:
    ids: np.ndarray
    kept: np.ndarray
    kinds: np.ndarray
    piece: np.ndarray  # of each kept row
    position: np.ndarray
    indices: np.ndarray
    values: np.ndarray

    def window(self, row: int, feature: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        """(token ids, the feature's activation on each, where the peak is, the kind of text) around a row."""
        piece, position = int(self.piece[row]), int(self.position[row])
        length = int((self.ids[piece] != nothing(self.ids.dtype)).sum())
        start = max(0, min(position - BEFORE, length - WINDOW))
        stop = min(length, start + WINDOW)
        heights = np.zeros(stop - start, dtype=np.float32)
        near = slice(max(0, row - WINDOW), row + WINDOW)
        for other in np.flatnonzero(self.piece[near] == piece) + near.start:
            place = self.position[other] - start
            if 0 <= place < stop - start:
                hit = self.values[other][self.indices[other] == feature]
                heights[place] = hit[0] if len(hit) else 0.0
        return self.ids[piece, start:stop], heights, position - start, int(self.kinds[piece])


def index(lab: LabLike, sae: SAE, texts: Mapping[str, Sequence[object]] | Sequence[object] | None = None) -> Index:
    """Where each feature is active: the index that came with the autoencoder, or one of your own texts.

    texts: None for the one that came with it; else kind of text -> texts, or a list of texts.
    Raises BadInput where there is none, where the autoencoder does not belong to the model, and for under 1,000 tokens;
    Unavailable for features that may be below 0.
    """
    checked_sae(sae).belongs(lab)
    if sae.signed:
        raise Unavailable(NO_SIGNS.format(f"The features of {sae.name}"))
    if texts is None:
        if sae.folder is None or not (sae.folder / FILE).is_file():
            raise BadInput(
                f"{sae.name} came without an index; make one of your own texts: lk.sae.index(lab, sae, texts)."
            )
        about = (sae.folder / FILE).stat()
        return _own(sae, _loaded(sae.folder / FILE, about.st_mtime_ns, about.st_size))
    kinds = as_kinds(texts)
    type_of_id = id_type(len(lab.tokenizer))
    rows = [(number, ids_for(lab, sae, text)) for number, kind in enumerate(kinds) for text in kinds[kind]]
    if sum(len(ids) for _, ids in rows) < LEAST_TOKENS:
        raise BadInput(
            f"This corpus has {sum(len(i) for _, i in rows):,} tokens, too few; give at least {LEAST_TOKENS:,}."
        )
    collector = Collector(len(sae), list(kinds), of=sae.fingerprint)
    for (number, ids), x in zip(rows, residuals(lab, [ids for _, ids in rows], sae.layer), strict=True):
        kept = defined(lab, sae, ids, x)
        values, indices = sae.active(x[kept])
        collector.add(
            np.array([ids], dtype=type_of_id),
            kept.numpy()[None],
            np.array([number]),
            indices.numpy(),
            values.numpy(),
        )
    return collector.finish()


@lru_cache(maxsize=2)
def _loaded(path: Path, _changed: int, _size: int) -> Index:  # a file that was written anew is read anew
    return Index.load(path)


def given(lab: LabLike, sae: SAE, of: Index | None) -> Index:
    """The index that was given, or the one that came with the autoencoder. Raises BadInput for one that is not its own."""
    if of is None:
        return index(lab, sae)
    checked_sae(sae).belongs(lab)
    if not isinstance(of, Index):
        raise BadInput(f"of takes an index, such as lk.sae.index(lab, sae, texts), and a {type(of).__name__} is none.")
    return _own(sae, of)


def _own(sae: SAE, found: Index) -> Index:
    """Raises BadInput for another autoencoder's index."""
    if len(found.counts) != len(sae):
        raise BadInput(
            f"This index is of {len(found.counts):,} features and {sae.name} has {len(sae):,}; make it again."
        )
    if found.of and found.of != sae.fingerprint:
        raise BadInput(f"This index is of another autoencoder than {sae.name}; make one of its own: lk.sae.index.")
    return found


def tensor(values: np.ndarray) -> torch.Tensor:
    """A float32 copy."""
    return torch.from_numpy(values.astype(np.float32))
