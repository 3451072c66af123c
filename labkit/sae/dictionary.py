"""A sparse autoencoder: what it reads, how it encodes and decodes, and its features.

    f(x) = g((x - b_dec) W_enc + b_enc)        x̂ = f(x) W_dec + b_dec

g keeps what is above zero (standard), above a threshold of each feature (jumprelu: Rajamanoharan et al. 2024), or the k
largest of those (topk: Gao et al. 2024). The arithmetic of these three is here, in plain torch, so that nothing waits
for sae-lens, which takes seconds to import; every other kind is handed to sae-lens's own class.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.errors import BadInput
from labkit.sae import saving
from labkit.sae.sparse import decode

__all__ = ["SAE", "Feature"]

PLAIN = ("standard", "jumprelu", "topk")  # computed here


@dataclass(eq=False, repr=False)
class SAE:
    """A sparse autoencoder of one model's residual stream. Made by `lk.sae.load`.

    name: how it was asked for.  model: the model it was trained on, by name; None where its files don't say.
    layer: it reads what enters this layer; `trace.residual(sae.layer)`.  d_in: numbers a token.
    architecture: "topk", "jumprelu", "standard", or another of sae-lens's.  k: features at work on a token, for topk.
    typical_norm, outlier: the median norm of what it was trained on, and how many times that a token's norm may be for
        the features to be defined; None where its files don't say.
    encoder, decoder: (d_in, features), (features, d_in) float32.  encoder_bias, decoder_bias: (features,), (d_in,).
    threshold: (features,) for jumprelu.  subtracts_bias: decoder_bias is taken away before it reads.  folder: where its
        files are; None for one that was made in memory, which `save` writes.
    centred: it was trained on a stream whose mean over d_in had been taken away from each token (TransformerLens's
        center_writing_weights); the same is done here before it reads.
    """

    name: str
    model: str | None
    layer: int
    architecture: str
    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    threshold: Tensor | None = None
    k: int | None = None
    subtracts_bias: bool = True
    centred: bool = False
    typical_norm: float | None = None
    outlier: float | None = None
    folder: Path | None = None
    _library: Any = field(default=None, compare=False)

    @property
    def d_in(self) -> int:
        return self.decoder.shape[1]

    @property
    def features(self) -> int:
        """How many there are."""
        return self.decoder.shape[0]

    def __len__(self) -> int:
        return self.features

    def __getitem__(self, index: int) -> Feature:
        if isinstance(index, bool) or not isinstance(index, Integral):
            raise BadInput(f"A feature is asked for by its number, and {index!r} is none; give 0 to {len(self) - 1:,}.")
        if not 0 <= index < len(self):
            raise BadInput(f"There is no feature {index:,}: {self.name} has features 0 to {len(self) - 1:,}.")
        return Feature(self, int(index))

    def __iter__(self) -> Iterator[Feature]:
        return (Feature(self, i) for i in range(len(self)))

    def __repr__(self) -> str:
        kind = f"topk {self.k}" if self.architecture == "topk" else self.architecture
        return (
            f"SAE({self.name!r}, {self.features:,} features of {self.model or 'an unnamed model'}, "
            f"entering layer {self.layer}, {kind})"
        )

    @cached_property
    def sae(self) -> Any:
        """The sae-lens SAE itself, in float32. The first use imports sae-lens, which takes seconds."""
        if self._library is not None:
            return self._library
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
            warnings.simplefilter("ignore")
            from sae_lens import SAE as LibrarySAE

            folder = self.folder
            if folder is None:
                folder = Path(scratch) / "sae"
                saving.save(self, folder)
            return LibrarySAE.load_from_disk(folder, dtype="float32")

    def save(self, folder: str | Path) -> Path:
        """Write it as a folder in sae-lens's format, for `lk.sae.load(folder)` and sae-lens's own load_from_disk.

        Raises BadInput where there is one already, and for a kind that sae-lens computes, which it saves itself.
        """
        path = Path(folder).expanduser()
        if self.architecture not in PLAIN:
            raise BadInput(
                f"{self.name} is of kind {self.architecture}; save it with sae-lens: sae.sae.save_model(path)."
            )
        saving.save(self, path)
        return path

    def pre_activations(self, x: Tensor) -> Tensor:
        """(..., features) float32: how strongly each feature is met, before any is kept. Of the three plain kinds."""
        if self.architecture not in PLAIN:
            raise BadInput(f"A {self.architecture} autoencoder has no single pre-activation; use encode.")
        x = self._checked(x)
        return (x - self.decoder_bias if self.subtracts_bias else x) @ self.encoder + self.encoder_bias

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(..., features) float32: how active each feature is on x, (..., d_in); almost all are zero."""
        if self.architecture not in PLAIN:
            return self.sae.encode(self._checked(x)).float()
        before = self.pre_activations(x)
        if self.architecture == "jumprelu":
            assert self.threshold is not None
            return before.relu() * (before > self.threshold)
        if self.architecture == "standard":
            return before.relu()
        assert self.k is not None
        values, indices = before.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(before).scatter_(-1, indices, values.relu_())

    @torch.no_grad()
    def active(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, n) values, the largest first, and (rows, n) features of x, (rows, d_in); n is the most any row has.

        Where a row has fewer, its values are 0 and its features -1.
        """
        if self.architecture == "topk":
            assert self.k is not None
            values, indices = self.pre_activations(x).topk(self.k, dim=-1)
            values = values.relu_()
        else:
            dense = self.encode(x)
            values, indices = dense.topk(max(1, int((dense > 0).sum(-1).max()) if len(x) else 1), dim=-1)
        return values, indices.masked_fill(values <= 0, -1)

    @torch.no_grad()
    def decode(self, activations: Tensor) -> Tensor:
        """(..., d_in) float32: what the features add up to."""
        if self.architecture not in PLAIN:
            return self.sae.decode(activations).float()
        return activations.float() @ self.decoder + self.decoder_bias

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """x, (..., d_in), as the features tell it: decode(encode(x))."""
        rows = x.reshape(-1, x.shape[-1])
        return self.told(rows, *self.active(rows)).view(x.shape)

    @torch.no_grad()
    def told(self, x: Tensor, values: Tensor, indices: Tensor) -> Tensor:
        """(rows, d_in) float32: what the features found by `active(x)` add up to; x, (rows, d_in), gives its mean back."""
        if self.architecture in PLAIN:
            told = decode(values, indices.clamp(min=0), self.decoder) + self.decoder_bias
        else:
            dense = torch.zeros(len(x), len(self), device=values.device)
            told = self.decode(dense.scatter_add_(-1, indices.clamp(min=0), values))
        return told + x.float().mean(-1, keepdim=True) if self.centred else told

    def defined(self, x: Tensor) -> Tensor:
        """(T,) bool for x, (T, d_in), a text from its beginning: where the features mean anything.

        Not at the first token, whose residual is that of no other, and not where the norm is over `outlier` times the
        typical one: there a model parks attention, and such vectors were left out of the training.
        """
        good = self.usual(x)
        good[:1] = False
        return good

    def usual(self, x: Tensor) -> Tensor:
        """(...,) bool for x, (..., d_in): whether its norm is of the size the autoencoder was trained on."""
        if self.typical_norm is None or self.outlier is None:
            return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        return x.float().norm(dim=-1) <= self.outlier * self.typical_norm

    def belongs(self, lab: Any) -> None:
        """Raise BadInput unless this autoencoder was trained on the lab's model."""
        config = lab.config.get_text_config()
        width, layers = int(config.hidden_size), int(config.num_hidden_layers)
        if width != self.d_in:
            raise BadInput(
                f"{self.name} reads {self.d_in} numbers a token and {lab.name} has {width}: they don't belong together; "
                f"load {self._home()}."
            )
        if self.layer > layers:
            raise BadInput(
                f"{self.name} reads what enters layer {self.layer} and {lab.name} has {layers} layers: they don't belong "
                f"together; load {self._home()}."
            )
        if self.model is not None and _plain_name(self.model) != _plain_name(lab.name):
            raise BadInput(
                f"{self.name} was trained on {self.model}, and this is {lab.name}: its features would mean nothing here; "
                f"load {self._home()}, or, if it is the same model under another name, say so: {self._renamed(lab.name)}."
            )

    def _renamed(self, model: str) -> str:
        if self.folder is None and self._library is None:
            return f"sae.model = {model!r}"
        return f"lk.sae.load({self.name!r}, model={model!r})"

    @cached_property
    def fingerprint(self) -> str:
        """What tells it from others: a checksum of its decoder."""
        return hashlib.sha256(self.decoder.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()[:16]

    def _home(self) -> str:
        return f"lk.load({self.model!r})" if self.model else "the model it was trained on"

    def _checked(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in:
            raise BadInput(f"{self.name} reads vectors of {self.d_in} numbers, and these have {x.shape[-1]}.")
        x = x.float()
        return x - x.mean(-1, keepdim=True) if self.centred else x


def checked_sae(what: Any) -> SAE:
    """Raises BadInput for what is no autoencoder."""
    if not isinstance(what, SAE):
        raise BadInput(f"This takes an autoencoder, such as lk.sae.load(), and {_shown(what)} is none.")
    return what


def checked_feature(what: Any) -> Feature:
    """Raises BadInput for what is no feature."""
    if not isinstance(what, Feature):
        raise BadInput(f"This takes a feature, such as sae[1234], and {_shown(what)} is none.")
    return what


def _shown(what: Any) -> str:
    return repr(what) if isinstance(what, str | int | float) else f"a {type(what).__name__}"


def _plain_name(name: str) -> str:
    """Without owner, case and what only says how it was stored."""
    last = name.rstrip("/").rpartition("/")[2].lower().removesuffix(".gguf")
    return {"gpt2-small": "gpt2"}.get(last, last)


@dataclass(frozen=True)
class Feature:
    """One feature of an SAE: the direction it writes along, and what it looks for."""

    sae: SAE
    index: int

    @property
    def direction(self) -> Tensor:
        """(d_in,): its row of the decoder; one unit of activation adds this to the residual stream."""
        return self.sae.decoder[self.index]

    @property
    def detector(self) -> Tensor:
        """(d_in,): its column of the encoder."""
        return self.sae.encoder[:, self.index]

    def __repr__(self) -> str:
        return f"Feature({self.index}, {self.sae.name!r})"
