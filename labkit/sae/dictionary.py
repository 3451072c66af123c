"""A sparse autoencoder: what it reads, how it encodes and decodes, and its features.

    f(x) = g((x - b_dec) W_enc + b_enc)        x̂ = f(x) W_dec + b_dec

f(x) are the activations of the features on a token, almost all 0; a feature is *active* where its activation is not. x̂ is
the *reconstruction*: what is left of x when only the features are known. g keeps what is above zero (standard), above a
threshold of each feature (jumprelu: Rajamanoharan et al. 2024), the k largest of those (topk: Gao et al. 2024), or the k
that are largest in size, whose sign stays (abstopk); a gated one decides by other numbers than it measures by (gated:
Rajamanoharan et al. 2024). The arithmetic of these is here, in plain torch, so that nothing waits for sae-lens, which
takes seconds to import; every other kind is encoded and decoded by sae-lens's own class.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from labkit import checks
from labkit.errors import BadInput
from labkit.sae import saving
from labkit.sae.formats import COMPUTED
from labkit.sae.sparse import decode

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

__all__ = ["SAE", "Feature", "Gate"]

_LINEAR = ("standard", "jumprelu", "topk", "abstopk")  # what a feature reads is a linear function of x


class LibrarySAE(Protocol):
    """As much of sae-lens's SAE as is used here."""

    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, feature_acts: Tensor) -> Tensor: ...
    def state_dict(self) -> dict[str, Tensor]: ...


class Gate(NamedTuple):
    """What a gated autoencoder has in place of encoder_bias; each (features,).

    With y = (x - b_dec) W_enc a feature is active where y + bias is above 0; how active, relu(y exp(scale) + magnitude) says.
    """

    bias: Tensor
    scale: Tensor
    magnitude: Tensor


class _Token(NamedTuple):
    """What is encoded of tokens, and how a reconstruction of it becomes one of them: times scale, plus shift."""

    x: Tensor
    scale: Tensor | float
    shift: Tensor | float


@dataclass(eq=False, repr=False)
class SAE:
    """A sparse autoencoder of one model's residual stream. Made by `lk.sae.load`.

    name: how it was asked for.  model: the model it was trained on, by name; None where its files don't say.
    layer: it reads what enters this layer; `trace.residual(sae.layer)`.  d_in: numbers a token.
    architecture: "topk", "jumprelu", "standard", "abstopk", "gated", or another of sae-lens's.  k: features active on a
        token at most, for topk and abstopk.
    typical_norm, outlier: the median norm of what it was trained on, and how many times that a token's norm may be for
        the features to be defined; None where its files don't say.
    encoder, decoder: (d_in, features), (features, d_in) float32.  encoder_bias, decoder_bias: (features,), (d_in,).
    threshold: (features,) for jumprelu.  gate: for gated.  subtracts_bias: decoder_bias is taken away before it reads.
    folder: where its files are; None for one that was made in memory, which `save` writes.
    centred: it was trained on a stream whose mean over d_in had been taken away from each token (TransformerLens's
        center_writing_weights); the same is done here before it reads.
    normalization: what is done to each token before it is encoded, and undone in its reconstruction: "none",
        "constant_norm_rescale" (its norm is made the root of d_in), "layer_norm" (mean 0 and deviation 1). Activations
        are then in units of the token's norm or deviation.
    rescaled: activations are in units of the residual stream whatever the lengths of the decoder's rows: a row counts as
        if it were of length 1.
    begins: whether texts were given to the model with the token that begins a text (sae-lens's prepend_bos); texts are
        read so here. None where its files don't say, and texts are read as the tokenizer makes them.
    positions: the (start, stop, step) of positions it was trained on; None for all.  context: tokens of a text then.
    leaves_out: ids of tokens it was not trained on; True for all special ones.
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
    gate: Gate | None = None
    normalization: str = "none"
    rescaled: bool = False
    begins: bool | None = None
    positions: tuple[int | None, ...] | None = None
    context: int | None = None
    leaves_out: bool | tuple[int, ...] = False
    _library: LibrarySAE | None = field(default=None, compare=False)
    _adapted: bool = field(default=False, compare=False)  # the files are of a form that sae-lens's class can't open

    @property
    def d_in(self) -> int:
        return self.decoder.shape[1]

    @property
    def features(self) -> int:
        """How many there are."""
        return self.decoder.shape[0]

    @property
    def signed(self) -> bool:
        """Whether activations may be below 0, so that a feature has two sides."""
        return self.architecture == "abstopk"

    @property
    def linear(self) -> bool:
        """Whether what a feature reads, before any is kept, is a linear function of x."""
        return self.architecture in _LINEAR and self.normalization == "none"

    def __len__(self) -> int:
        return self.features

    def __getitem__(self, index: int) -> Feature:
        return Feature(self, checks.index("feature", index, len(self), of=f"{self.name} has", negative=False))

    def __iter__(self) -> Iterator[Feature]:
        return (Feature(self, i) for i in range(len(self)))

    def __repr__(self) -> str:
        kind = self.architecture if self.k is None else f"{self.architecture} {self.k}"
        return (
            f"SAE({self.name!r}, {self.features:,} features of {self.model or 'an unnamed model'}, "
            f"entering layer {self.layer}, {kind})"
        )

    # sae-lens's own ---------------------------------------------------------------------------------------------------

    @cached_property
    def sae(self) -> LibrarySAE:
        """The sae-lens SAE itself, in float32. The first use imports sae-lens, which takes seconds."""
        if self._library is not None:
            return self._library
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
            warnings.simplefilter("ignore")
            from sae_lens import SAE as Library

            folder = self.folder
            if folder is None or self._adapted:
                folder = self.save(Path(scratch) / "sae")
            library: LibrarySAE = Library.load_from_disk(folder, dtype="float32")
            return library

    def save(self, folder: str | Path) -> Path:
        """Write it as a folder in sae-lens's format, for `lk.sae.load(folder)` and sae-lens's own load_from_disk.

        Raises BadInput where there is one already, and for a kind that sae-lens computes, which it saves itself.
        """
        path = Path(folder).expanduser()
        if self.architecture not in COMPUTED:
            raise BadInput(
                f"{self.name} is of kind {self.architecture}; save it with sae-lens: sae.sae.save_model(path)."
            )
        saving.write(path, self._settings(), self._weights())
        return path

    def _weights(self) -> dict[str, Tensor]:
        found = {"W_enc": self.encoder, "W_dec": self.decoder, "b_dec": self.decoder_bias}
        if self.gate is not None:
            return found | {"b_gate": self.gate.bias, "r_mag": self.gate.scale, "b_mag": self.gate.magnitude}
        found["b_enc"] = self.encoder_bias
        return found if self.threshold is None else found | {"threshold": self.threshold}

    def _settings(self) -> dict[str, object]:
        metadata: dict[str, object] = {"model_name": self.model, "hook_name": f"blocks.{self.layer}.hook_resid_pre"}
        if self.typical_norm is not None and self.outlier is not None:
            metadata["labkit"] = {"typical_norm": self.typical_norm, "outlier": self.outlier}
        if self.centred:
            metadata["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
        for key, value in (
            ("prepend_bos", self.begins),
            ("seqpos_slice", self.positions),
            ("context_size", self.context),
            ("exclude_special_tokens", self.leaves_out or None),
        ):
            if value is not None:
                metadata[key] = list(value) if isinstance(value, tuple) else value
        return (
            {
                "architecture": self.architecture,
                "d_in": self.d_in,
                "d_sae": len(self),
                "dtype": "float32",
                "device": "cpu",
                "apply_b_dec_to_input": self.subtracts_bias,
                "normalize_activations": self.normalization,
                "reshape_activations": "none",
                "metadata": metadata,
            }
            | ({} if self.k is None else {"k": self.k})
            | ({"rescale_acts_by_decoder_norm": True} if self.rescaled else {})
        )

    # what it computes -------------------------------------------------------------------------------------------------

    def pre_activations(self, x: Tensor) -> Tensor:
        """(..., features) float32: how strongly each feature is met, before any is kept.

        Raises BadInput for a kind that has no such number.
        """
        if self.architecture not in _LINEAR:
            raise BadInput(f"A {self.architecture} autoencoder has no single pre-activation; use encode.")
        return self._pre_activations(self._token(x).x)

    def _pre_activations(self, x: Tensor) -> Tensor:
        found = (x - self.decoder_bias if self.subtracts_bias else x) @ self.encoder + self.encoder_bias
        return found * self._lengths if self.rescaled else found

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(..., features) float32: how active each feature is on x, (..., d_in); almost all are zero."""
        return self._encoded(self._token(x).x)

    def _encoded(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            seen = (x - self.decoder_bias if self.subtracts_bias else x) @ self.encoder
            return (seen * self.gate.scale.exp() + self.gate.magnitude).relu() * (seen + self.gate.bias > 0)
        if self.architecture not in COMPUTED:
            return self.sae.encode(x).float()
        if self.k is not None:
            values, indices = self._largest(x)
            return torch.zeros(*x.shape[:-1], len(self), device=x.device).scatter_(-1, indices, values)
        before = self._pre_activations(x)
        if self.threshold is not None:
            return before.relu() * (before > self.threshold)
        return before.relu()

    def _largest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and features of the k that are kept, (..., k) each, the largest first."""
        assert self.k is not None
        before = self._pre_activations(x)
        if self.signed:
            indices = before.abs().topk(self.k, dim=-1).indices
            return before.gather(-1, indices), indices
        values, indices = before.topk(self.k, dim=-1)
        return values.relu_(), indices

    @torch.no_grad()
    def active(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, n) values, the largest first, and (rows, n) features of x, (rows, d_in); n is the most any row has.

        Where a row has fewer, its values are 0 and its features -1. Largest in size, where some are below 0.
        """
        x = self._token(x).x
        if self.k is not None and self.architecture in COMPUTED:
            values, indices = self._largest(x)
        else:
            dense = self._encoded(x)
            most = int((dense != 0).sum(-1).max()) if len(x) else 1
            indices = dense.abs().topk(max(1, most), dim=-1).indices
            values = dense.gather(-1, indices)
        return values, indices.masked_fill(values == 0, -1)

    @torch.no_grad()
    def decode(self, activations: Tensor) -> Tensor:
        """(..., d_in) float32: what the features add up to.

        Raises BadInput where that depends on what was encoded: see `reconstruct`.
        """
        if self.normalization != "none":
            raise BadInput(
                f"{self.name} normalizes each token before it encodes it, so that activations alone don't say what they "
                "add up to; use sae.reconstruct(x)."
            )
        if self.architecture not in COMPUTED:
            return self.sae.decode(activations).float()
        activations = activations.float()
        return (activations / self._lengths if self.rescaled else activations) @ self.decoder + self.decoder_bias

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """x, (..., d_in), as the features have it: its reconstruction, decode(encode(x))."""
        rows = x.reshape(-1, x.shape[-1])
        return self.reconstruction(rows, *self.active(rows)).view(x.shape)

    @torch.no_grad()
    def reconstruction(self, x: Tensor, values: Tensor, indices: Tensor) -> Tensor:
        """(rows, d_in) float32: what the features found by `active(x)` add up to; x, (rows, d_in), gives its mean back."""
        token, chosen = self._token(x), indices.clamp(min=0)
        if self.architecture in COMPUTED:
            amounts = values / self._lengths[chosen] if self.rescaled else values
            found = decode(amounts, chosen, self.decoder) + self.decoder_bias
        else:
            dense = torch.zeros(len(x), len(self), device=values.device)
            found = self.sae.decode(dense.scatter_add_(-1, chosen, values)).float()
        return found * token.scale + token.shift

    @property
    def _lengths(self) -> Tensor:
        lengths: Tensor = self.decoder.norm(dim=-1).clamp(min=1e-8)
        return lengths

    def _token(self, x: Tensor) -> _Token:
        """What is encoded of x."""
        if x.shape[-1] != self.d_in:
            raise BadInput(f"{self.name} reads vectors of {self.d_in} numbers, and these have {x.shape[-1]}.")
        x = x.float()
        scale: Tensor | float = 1.0
        shift: Tensor | float = 0.0
        if self.centred or self.normalization == "layer_norm":
            shift = x.mean(-1, keepdim=True)
            x = x - shift
        if self.normalization == "layer_norm":
            scale = x.std(-1, keepdim=True)
            x = x / (scale + 1e-5)
        elif self.normalization == "constant_norm_rescale":
            scale = x.norm(dim=-1, keepdim=True).clamp(min=1e-12) / self.d_in**0.5
            x = x / scale
        return _Token(x, scale, shift)

    # where it may be used ---------------------------------------------------------------------------------------------

    def defined(self, x: Tensor) -> Tensor:
        """(T,) bool for x, (T, d_in), a text from its beginning: where the features mean anything.

        Not at the first token, whose residual is that of no other, not at positions that the training left out, and not
        where the norm is over `outlier` times the typical one: there a model parks attention, and such vectors were left
        out of the training.
        """
        good = self.usual(x)
        good[:1] = False
        if self.positions is not None:
            good &= self._read_positions(len(x)).to(good.device)
        return good

    def _read_positions(self, length: int) -> Tensor:
        """(length,) bool: the positions of a text that the training read."""
        assert self.positions is not None
        cut = slice(*self.positions)
        from_the_end = min(cut.start or 0, cut.stop or 0) < 0
        if from_the_end and self.context is None:
            return torch.ones(length, dtype=torch.bool)  # of texts whose length is not known
        whole = self.context if from_the_end and self.context else max(length, self.context or 0)
        read = range(whole)[cut]
        return torch.tensor([place in read for place in range(length)], dtype=torch.bool)

    def usual(self, x: Tensor) -> Tensor:
        """(...,) bool for x, (..., d_in): whether its norm is of the size the autoencoder was trained on."""
        if self.typical_norm is None or self.outlier is None:
            return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        usual: Tensor = x.float().norm(dim=-1) <= self.outlier * self.typical_norm
        return usual

    def belongs(self, lab: LabLike) -> None:
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
        if self.centred and _keeps_the_mean(lab):
            raise BadInput(
                f"{self.name} says that the mean of each token was taken away from the residual stream, which is not done "
                f"with norms such as {lab.name} has; if it is of this model all the same, set sae.centred = False."
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


@torch.no_grad()
def _keeps_the_mean(lab: LabLike) -> bool:
    """Whether a model's final norm sees the mean of a token, as RMSNorm does, found by trying it."""
    norm = lab.anatomy.final_norm
    if norm is None:
        return False
    with lab.turn():
        x = torch.linspace(-2, 2, int(lab.config.get_text_config().hidden_size), device=lab.device, dtype=lab.dtype)[
            None
        ]
        return bool((norm(x + 1) - norm(x)).abs().max() > 0.05)


def checked_sae(what: object) -> SAE:
    """Raises BadInput for what is no autoencoder."""
    if not isinstance(what, SAE):
        raise BadInput(f"This takes an autoencoder, such as lk.sae.load(), and {_shown(what)} is none.")
    return what


def checked_feature(what: object) -> Feature:
    """Raises BadInput for what is no feature."""
    if not isinstance(what, Feature):
        raise BadInput(f"This takes a feature, such as sae[1234], and {_shown(what)} is none.")
    return what


def _shown(what: object) -> str:
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
        """(d_in,): one unit of activation adds this to the residual stream: its row of the decoder.

        Where the autoencoder is `rescaled`, that row at length 1; where it normalizes tokens, times the token's scale.
        """
        row = self.sae.decoder[self.index]
        return row / row.norm() if self.sae.rescaled else row

    @property
    def detector(self) -> Tensor:
        """(d_in,): what its activation is the product with: its column of the encoder."""
        column = self.sae.encoder[:, self.index]
        return column * self.sae.decoder[self.index].norm() if self.sae.rescaled else column

    def __repr__(self) -> str:
        return f"Feature({self.index}, {self.sae.name!r})"
