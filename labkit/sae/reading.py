"""What an autoencoder reads, and which features it finds in a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.models.tokens import token_strings
from labkit.sae.dictionary import SAE, Feature, checked_sae
from labkit.trace import running
from labkit.trace.input import as_ids, each_of, is_many

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.input import Continued, Text
    from labkit.trace.lab_like import LabLike

__all__ = ["Features", "features", "residual", "residuals"]


def residual(lab: LabLike, text: Text, layer: int, *, chat: bool = False) -> Tensor:
    """(T, d_model) float32: what enters a layer, by a pass that goes no further. As `lab.trace(text).residual(layer)`.

    Edits in force hold. Raises BadInput for a layer or a text that can't be used.
    """
    return next(residuals(lab, [_ids(lab, text, chat)], layer))


def residuals(lab: LabLike, rows: Sequence[Sequence[int]], layer: int) -> Iterator[Tensor]:
    """What enters a layer, (T, d_model) float32 on the CPU, for each row of token ids in turn; short rows run together."""
    if reason := lab.support().get("residual"):
        raise Unavailable(reason)
    layers = lab.anatomy.layers
    wanted = f"a layer that it enters in {lab.name}, 0 to {len(layers) - 1}, or {len(layers)} for what leaves the last"
    layer = checks.whole("layer", layer, 0, len(layers), wanted=wanted)
    with lab.turn():
        groups = running.groups(lab.model, [len(row) for row in rows], in_order=True)
    last = layer == len(layers)
    module = layers[-1 if last else layer].module
    before = sum(each.module is module for each in layers[: layer - 1 if last else layer])
    for group in groups:
        with lab.turn():
            output = running.forward(lab.model, [rows[i] for i in group], upto=module, leaving=last, after=before)
        for place, length in enumerate(output.lengths):
            yield output.reached[place, :length].float().cpu()


def _ids(lab: LabLike, text: object, chat: bool) -> list[int]:
    return as_ids(lab.tokenizer, text, chat=chat, context=lab.context)


def ids_for(lab: LabLike, sae: SAE, text: object, *, chat: bool = False) -> list[int]:
    """The ids of a text as the autoencoder's training had it: with the token that begins a text, or without.

    Only a plain text is made so; ids, messages and a Generation are as they are. Where the tokenizer has no such token,
    the one that ends a text stands there, as TransformerLens has it.
    """
    if isinstance(text, str) and not chat and sae.begins is not None:
        ids = list(lab.tokenizer(text, add_special_tokens=False).input_ids)
        if ids and sae.begins:
            first = lab.tokenizer.bos_token_id
            first = lab.tokenizer.eos_token_id if first is None else first
            if first is None:
                raise BadInput(
                    f"{sae.name} was trained on texts behind a token that begins them, and {lab.name}'s tokenizer has none; "
                    "give token ids, or set sae.begins = None."
                )
            ids = ids if ids[0] == first else [first, *ids]
        text = ids
    return _ids(lab, text, chat)


def defined(lab: LabLike, sae: SAE, ids: Sequence[int], x: Tensor) -> Tensor:
    """(T,) bool: where the features of a text mean anything; x, (T, d_in), is what enters the autoencoder's layer."""
    good = sae.defined(x)
    if sae.leaves_out:
        named = sae.leaves_out if isinstance(sae.leaves_out, tuple) else lab.tokenizer.all_special_ids
        out = set(named)
        good &= torch.tensor([i not in out for i in ids], dtype=torch.bool)
    return good


@dataclass(frozen=True, repr=False)
class Features:
    """Which features are active on each of a text's T tokens.

    tokens, ids: the T tokens.  indices: (T, n) features, the most active first, -1 where there are fewer.  values: (T, n)
    float32, how active.  defined: (T,) bool: False at the first token and where the residual's norm is out of all
    measure; such tokens have no features here.  unexplained: (T,) share of the token's squared distance from the decoder's
    bias that the features leave over; NaN where not defined (`lk.sae.evaluate` measures from the mean).  sae: whose features.
    """

    tokens: list[str]
    ids: list[int]
    indices: Tensor
    values: Tensor
    defined: Tensor
    unexplained: Tensor
    sae: SAE

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Features({len(self)} tokens, {self.sae.name}, at most {self.indices.shape[1]} active on a token)"

    def top(self, token: int, k: int = 5) -> list[tuple[Feature, float]]:
        """The k most active features on a token and how active; none where they are not defined."""
        token = checks.index("token", token, len(self), of="this text has")
        k = checks.whole("k", k, 1)
        pairs = zip(self.indices[token].tolist(), self.values[token].tolist(), strict=True)
        return [(self.sae[i], v) for i, v in pairs if i >= 0][:k]

    def of(self, feature: int | Feature) -> Tensor:
        """(T,) float32: how active one feature is on each token; NaN where not defined."""
        if (
            isinstance(feature, Feature)
            and feature.sae is not self.sae
            and feature.sae.fingerprint != self.sae.fingerprint
        ):
            raise BadInput(
                f"{feature!r} is of another autoencoder than these features, {self.sae.name}; give one of its own."
            )
        index = feature.index if isinstance(feature, Feature) else self.sae[feature].index
        found = (self.values * (self.indices == index)).sum(-1)
        return found.masked_fill(~self.defined, float("nan"))

    def strongest(self, k: int = 10) -> list[tuple[Feature, float, int]]:
        """The k features with the highest activation anywhere in the text, in size: feature, activation, token."""
        k = checks.whole("k", k, 1)
        best: dict[int, tuple[float, int]] = {}
        for token in range(len(self)):
            for index, value in zip(self.indices[token].tolist(), self.values[token].tolist(), strict=True):
                if index >= 0 and abs(value) > abs(best.get(index, (0.0, 0))[0]):
                    best[index] = (value, token)
        ranked = sorted(best.items(), key=lambda item: -abs(item[1][0]))[:k]
        return [(self.sae[index], value, token) for index, (value, token) in ranked]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each active feature of each token: position, token, feature, activation."""
        import pandas as pd

        where = (self.indices >= 0).nonzero()
        return pd.DataFrame(
            {
                "position": where[:, 0].tolist(),
                "token": [self.tokens[p] for p in where[:, 0].tolist()],
                "feature": self.indices[where[:, 0], where[:, 1]].tolist(),
                "activation": self.values[where[:, 0], where[:, 1]].tolist(),
            }
        )


@overload
def features(lab: LabLike, sae: SAE, text: str | Continued, *, chat: bool = False) -> Features: ...
@overload
def features(lab: LabLike, sae: SAE, text: list[str], *, chat: bool = False) -> list[Features]: ...
@overload
def features(lab: LabLike, sae: SAE, text: object, *, chat: bool = False) -> Features | list[Features]: ...
def features(lab: LabLike, sae: SAE, text: object, *, chat: bool = False) -> Features | list[Features]:
    """Which features are active on a text's tokens: a Features, or a list of them for a list of texts.

    text: a text, token ids, messages or a Generation, or a list of these, as lab.trace takes them. Edits in force hold.
    Raises BadInput where the autoencoder does not belong to the model, and for a text that can't be used.
    """
    found = features_of_each(lab, sae, each_of(text), chat=chat)
    return found if is_many(text) else found[0]


def features_of_each(lab: LabLike, sae: SAE, texts: Iterable[object], *, chat: bool = False) -> list[Features]:
    """The features of several texts, each as `features` takes one."""
    checked_sae(sae).belongs(lab)
    rows = [ids_for(lab, sae, each, chat=chat) for each in texts]
    return [_found(lab, sae, row, x) for row, x in zip(rows, residuals(lab, rows, sae.layer), strict=True)]


def _found(lab: LabLike, sae: SAE, ids: list[int], x: Tensor) -> Features:
    values, indices = sae.active(x)
    rebuilt, bias = sae.reconstruction(x, values, indices), sae.reconstruction(x, torch.zeros_like(values), indices)
    left = (x - rebuilt).square().sum(-1) / (x - bias).square().sum(-1)
    good = defined(lab, sae, ids, x)
    values = values.masked_fill(~good[:, None], 0.0)
    indices = indices.masked_fill(~good[:, None], -1)
    return Features(
        tokens=list(token_strings(lab.tokenizer, ids)),
        ids=list(ids),
        indices=indices,
        values=values,
        defined=good,
        unexplained=left.masked_fill(~good, float("nan")),
        sae=sae,
    )
