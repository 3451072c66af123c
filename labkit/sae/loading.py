"""Where an autoencoder comes from: labkit itself, a folder of sae-lens's, or one of its releases."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from labkit import checks
from labkit.errors import BadInput, BadModelFile, ModelNotFound, Unavailable
from labkit.models.files.common import read_json, sha256
from labkit.models.files.safetensors_header import SafetensorsHeader, read_safetensors_header
from labkit.models.shipped import ASSETS
from labkit.sae.dictionary import SAE, Gate
from labkit.sae.formats import AVERAGE, COMPUTED, WHITENED, Described, described
from labkit.sae.saving import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.sae.dictionary import LibrarySAE

__all__ = ["load"]

SHIPPED = "labkit-sae"
LARGEST_CONFIG_BYTES = 1_000_000
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"  # of a checkpoint of a training run
_SPARSIFY = "sae.safetensors"
_FACTORS = ("scaling_factor", "finetuning_scaling_factor")  # one of each feature, from a training of these alone


def load(
    name: str | Path | None = None,
    *,
    sae_id: str | None = None,
    model: str | None = None,
    scale: float | None = None,
) -> SAE:
    """A sparse autoencoder: the one that comes with labkit, a local folder, or a release of sae-lens by name.

    name: None or "labkit-sae" for the shipped one; a folder with cfg.json and sae_weights.safetensors, as any version of
        sae-lens wrote it, checkpoints of a training run included; or a release, such as "gpt2-small-res-jb" (needs a
        network).
    sae_id: which of a release, such as "blocks.8.hook_resid_pre"; without it the error lists them.
    model: the name of the model it belongs to, where its files don't say or call it otherwise.
    scale: what activations were multiplied by in its training (sae-lens's expected_average_only_in), where its files say
        that they were and not by what; 1 where its weights have been adjusted since.
    Raises ModelNotFound where there is none, BadModelFile for damaged files, Unavailable for one that reads something
    other than the residual stream or that can't be computed rightly, and without a network.
    """
    if name is not None and not isinstance(name, str | Path):
        raise BadInput(f"An autoencoder is asked for by name or folder, and a {type(name).__name__} is neither.")
    if scale is not None:
        scale = checks.number("scale", scale, above=0)
    if sae_id is not None and (name is None or str(name) == SHIPPED or Path(name).expanduser().is_dir()):
        raise BadInput(
            f"sae_id says which autoencoder of a release, and {name or SHIPPED} is a single one; leave it away."
        )
    if name is None or str(name) == SHIPPED:
        folder = ASSETS / SHIPPED
        _check_shipped(folder)
        return from_folder(folder, name=SHIPPED, model=model, scale=scale)
    path = Path(name).expanduser()
    if path.is_dir():
        return from_folder(path, name=str(name), model=model, scale=scale)
    if path.is_file():
        raise BadInput(f"{path.name} is a file; give the folder with {CONFIG} and {WEIGHTS}.{_of_old(path)}")
    if isinstance(name, Path) or path.is_absolute() or str(name).startswith("."):
        raise ModelNotFound(f"There is no folder {str(name)!r}; give one with {CONFIG} and {WEIGHTS}.")
    return _release(str(name), sae_id, model, scale)


def from_folder(folder: Path, *, name: str, model: str | None = None, scale: float | None = None) -> SAE:
    """An autoencoder from a folder in sae-lens's format, every size checked before a weight is read."""
    _check_files(folder)
    config = read_json(folder / CONFIG, LARGEST_CONFIG_BYTES)
    said = described(config, name, f"{folder.name}/{CONFIG}")
    header = read_safetensors_header(folder / WEIGHTS)
    if said.architecture not in COMPUTED:
        return replace(_from_library(folder, said, name=name, model=model), folder=folder)
    used = _shapes(said, header)
    used |= {key: (said.features,) for key in _FACTORS if key in header.tensors}
    _check_shapes(header, used, folder)

    from safetensors.torch import load_file

    found = load_file(folder / WEIGHTS)
    weights = {key: value.float() for key, value in found.items() if key in used}
    for key, value in weights.items():
        _check_numbers(value, f"{folder.name}/{WEIGHTS}", key)
    made = _made(said, weights, name=name, model=model)
    made = _unscaled(made, said, scale, folder)
    if made.rescaled and made.k is None:  # the kept form of a batched one has no such setting
        made = _at_length_one(made)
    return replace(made, folder=folder)


def _check_files(folder: Path) -> None:
    """Raises BadModelFile where cfg.json or the weights are missing, with what is there instead."""
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise BadModelFile(
                f"{folder.name} has no {file}; give a folder that sae-lens saved an autoencoder in.{_of_others(folder)}"
            )


def _of_others(folder: Path) -> str:
    """What a folder holds that other libraries, or the first versions of sae-lens, wrote; "" where nothing is known."""
    if (folder / _SPARSIFY).is_file():
        return (
            f" {_SPARSIFY} is of the library sparsify, which sae-lens reads: save what SAE.load_from_disk(folder, "
            "converter=sae_lens.loading.pretrained_sae_loaders.sparsify_disk_loader) gives with its save_model."
        )
    old = sorted(each for each in folder.iterdir() if _of_old(each))
    return f" {old[0].name}:{_of_old(old[0])}" if old else ""


def _of_old(file: Path) -> str:
    if not file.name.endswith((".pt", ".pth", ".pkl", ".pkl.gz")) or file.name == "trainer_state.pt":
        return ""
    return (
        " This is a pickle, which runs code when it is opened, as the first versions of sae-lens and other libraries wrote; "
        "open it there, and save it with a sae-lens of today."
    )


def _shapes(said: Described, header: SafetensorsHeader) -> dict[str, tuple[int, ...]]:
    """The tensors that are read, and of which size each is."""
    d_in, features = said.d_in, said.features
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, features), "W_dec": (features, d_in), "b_dec": (d_in,)}
    if said.architecture == "gated":
        return shapes | dict.fromkeys(("b_gate", "r_mag", "b_mag"), (features,))
    shapes["b_enc"] = (features,)
    if said.batched:
        shapes["topk_threshold"] = ()
    elif said.architecture == "jumprelu":
        old = "threshold" not in header.tensors and "log_threshold" in header.tensors
        shapes["log_threshold" if old else "threshold"] = (features,)
    return shapes


def _made(said: Described, weights: Mapping[str, Tensor], *, name: str, model: str | None) -> SAE:
    """From what was said and the tensors, float32; what activations were multiplied by in training is not undone."""
    threshold = weights.get("threshold")
    if "log_threshold" in weights:
        threshold = weights["log_threshold"].exp()
    if "topk_threshold" in weights:
        threshold = weights["topk_threshold"].expand(said.features).clone()
    decoder = weights["W_dec"]
    factor = next((weights[key] for key in _FACTORS if key in weights), None)
    if factor is not None and not bool((factor - 1).abs().max() < 1e-6):
        if not said.finetuned:
            raise BadModelFile(
                f"{name} has a factor for each feature, and its {CONFIG} says it has none; get it again."
            )
        decoder = factor[:, None] * decoder  # activations stay, and count so much more or less in the sum
    elif factor is not None:
        factor = None
    gated = said.architecture == "gated"
    return SAE(
        name=name,
        model=model or said.model,
        layer=said.layer,
        architecture=said.architecture,
        encoder=weights["W_enc"],
        encoder_bias=torch.zeros(said.features) if gated else weights["b_enc"],
        decoder=decoder,
        decoder_bias=weights["b_dec"],
        threshold=threshold,
        k=said.k,
        subtracts_bias=said.subtracts_bias,
        centred=said.centred,
        typical_norm=said.typical_norm,
        outlier=said.outlier,
        gate=Gate(weights["b_gate"], weights["r_mag"], weights["b_mag"]) if gated else None,
        normalization="none" if said.normalization in (AVERAGE, WHITENED) else said.normalization,
        rescaled=said.rescaled,
        begins=said.begins,
        positions=said.positions,
        context=said.context,
        leaves_out=said.leaves_out,
        _adapted=said.batched or factor is not None or "log_threshold" in weights,
    )


# what activations went through in training ------------------------------------------------------------------------------


def _unscaled(sae: SAE, said: Described, scale: float | None, folder: Path | None) -> SAE:
    """The same for activations as they are, where it was trained on activations times a number or a matrix."""
    if said.normalization == WHITENED:
        return _unwhitened(sae, folder)
    if said.normalization != AVERAGE:
        if scale is not None:
            raise BadInput(f"{sae.name} was trained on activations as they are; leave scale away.")
        return sae
    if scale is None and folder is not None and (folder / SCALER).is_file():
        found = read_json(folder / SCALER, LARGEST_CONFIG_BYTES).get("scaling_factor")
        scale = checks.as_number(found)
        if scale is not None and scale <= 0:
            raise BadModelFile(f"{folder.name}/{SCALER} says {scale:g} where a number above 0 is to be; get it again.")
    if scale is None:
        warnings.warn(
            f"{sae.name} says that activations were multiplied by a number in its training ({AVERAGE}), and not by which; "
            "it is read as sae-lens reads it, without. Where its weights were not adjusted since, its features are wrong: "
            "give that number, lk.sae.load(..., scale=...), or scale=1 to say that they were.",
            stacklevel=4,
        )
        return sae
    if scale == 1:
        return sae
    threshold = sae.threshold
    if threshold is not None and said.batched and sae.rescaled:  # in units of the decoder's rows, which become shorter
        threshold = threshold / scale
    return replace(
        sae,
        encoder=sae.encoder * scale,
        decoder=sae.decoder / scale,
        decoder_bias=sae.decoder_bias / scale,
        threshold=threshold,
        _library=None,
        _adapted=True,
    )


def _unwhitened(sae: SAE, folder: Path | None) -> SAE:
    """Trained on z = (x - mean) @ matrix: what is done to x goes into the encoder, what is undone into the decoder."""
    if folder is None or not (folder / WHITENING).is_file():
        raise Unavailable(
            f"{sae.name} was trained on whitened activations ({WHITENED}), and the matrix is not beside it; save it again "
            "at the end of its training, when sae-lens puts that matrix into the weights."
        )
    from safetensors.torch import load_file

    read_safetensors_header(folder / WHITENING)
    found = {key: value.float() for key, value in load_file(folder / WHITENING).items()}
    for key, value in found.items():
        _check_numbers(value, f"{folder.name}/{WHITENING}", key)
    square, row = (sae.d_in, sae.d_in), (sae.d_in,)
    if {key: tuple(value.shape) for key, value in found.items()} != {
        "mean": row,
        "matrix": square,
        "inverse_matrix": square,
    }:
        raise BadModelFile(f"{folder.name}/{WHITENING} does not fit {sae.name}; get the autoencoder again.")
    if sae.rescaled:  # the rows' lengths are about to change
        sae = _at_length_one(sae)
    bias, gate = sae.encoder_bias, sae.gate
    encoder = found["matrix"] @ sae.encoder
    if not sae.subtracts_bias:
        shift = found["mean"] @ encoder
        bias = bias - shift
        gate = gate and Gate(gate.bias - shift, gate.scale, gate.magnitude - shift * gate.scale.exp())
    return replace(
        sae,
        encoder=encoder,
        encoder_bias=bias,
        decoder=sae.decoder @ found["inverse_matrix"],
        decoder_bias=sae.decoder_bias @ found["inverse_matrix"] + found["mean"],
        gate=gate,
        _adapted=True,
    )


def _at_length_one(sae: SAE) -> SAE:
    """The same of one that is rescaled, with decoder rows of length 1, for which nothing is to be rescaled."""
    lengths = sae.decoder.norm(dim=-1).clamp(min=1e-8)
    return replace(
        sae,
        encoder=sae.encoder * lengths,
        encoder_bias=sae.encoder_bias * lengths,
        decoder=sae.decoder / lengths[:, None],
        rescaled=False,
        _adapted=True,
    )


# checks -----------------------------------------------------------------------------------------------------------------


def _check_shapes(header: SafetensorsHeader, shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
    for key, shape in shapes.items():
        if key not in header.tensors:
            raise BadModelFile(f"{folder.name}/{WEIGHTS} has no {key}; get the autoencoder again.")
        if (found := header.tensors[key][1]) != shape:
            raise BadModelFile(
                f"{folder.name}/{WEIGHTS}: {key} has shape {list(found)} where {CONFIG} asks for {list(shape)}; "
                "get the autoencoder again."
            )


def _check_numbers(value: Tensor, where: str, key: str) -> None:
    if not bool(value.isfinite().all()):
        raise BadModelFile(f"{where}: {key} has numbers that are none (NaN or infinite); get it again.")


def _check_shipped(folder: Path) -> None:
    try:
        sums = json.loads((folder / "SHA256.json").read_text("utf-8"))
        damaged = [file for file, expected in sums.items() if sha256(folder / file) != expected]
    except (OSError, ValueError, AttributeError, ModelNotFound):
        damaged = ["SHA256.json, or a file it names,"]
    if damaged:
        raise BadModelFile(f"{SHIPPED}, which comes with labkit, is damaged ({damaged[0]}); install labkit again.")


# through sae-lens -----------------------------------------------------------------------------------------------------


def _from_library(folder: Path, said: Described, *, name: str, model: str | None) -> SAE:
    """One of the other kinds: sae-lens's own class computes it."""
    if said.normalization != "none":
        raise Unavailable(
            f"{name} is of kind {said.architecture} and normalizes what it reads ({said.normalization}), which labkit does "
            f"not do for kinds that it leaves to sae-lens; give one of {', '.join(COMPUTED)}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE as Library

        try:
            library = Library.load_from_disk(folder, dtype="float32")
        except Exception as error:
            raise BadModelFile(
                f"sae-lens can't open {folder.name} ({_short(error)}); get the autoencoder again."
            ) from error
    return _wrapped(library, said, name=name, model=model, where=f"{folder.name}/{WEIGHTS}")


def _wrapped(library: LibrarySAE, said: Described, *, name: str, model: str | None, where: str) -> SAE:
    """Around a sae-lens SAE in float32."""
    weights = {key: value.float() for key, value in library.state_dict().items()}
    for key, value in weights.items():
        _check_numbers(value, where, key)
    if said.architecture not in COMPUTED:  # matching pursuit has no encoder but its decoder
        weights.setdefault("W_enc", weights["W_dec"].T)
        weights.setdefault("b_enc", torch.zeros(said.features))
    return replace(_made(said, weights, name=name, model=model), _library=library)


def _release(release: str, sae_id: str | None, model: str | None, scale: float | None) -> SAE:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE as Library
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    releases = get_pretrained_saes_directory()
    if release not in releases and sae_id is None:  # "release/sae_id", as its name is written
        start, _, rest = release.partition("/")
        if start in releases:
            release, sae_id = start, rest
    if release not in releases:
        import difflib

        near = difflib.get_close_matches(release, releases, n=3, cutoff=0.4)
        hint = (
            f"near it are {', '.join(near)}" if near else f"lk.sae.load() is the one that comes with labkit: {SHIPPED}"
        )
        raise ModelNotFound(f"There is no folder and no sae-lens release called {release!r}; {hint}.")
    ids = list(releases[release].saes_map)
    if sae_id is None and len(ids) == 1:
        sae_id = ids[0]
    if sae_id not in ids:
        shown = ", ".join(repr(i) for i in ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
        asked = "has several autoencoders" if sae_id is None else f"has no {sae_id!r}"
        raise BadInput(f"{release} {asked}; give sae_id as one of {shown}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library = Library.from_pretrained(release, sae_id)
    except Exception as error:
        raise Unavailable(
            f"{release} could not be fetched or opened ({_short(error)}); it needs a network, unless it was fetched before. "
            "lk.sae.load() needs none."
        ) from error
    name = f"{release}/{sae_id}"
    said = described(library.cfg.to_dict(), name)
    if said.model is None:
        said = replace(said, model=releases[release].model)
    made = _wrapped(library.to(dtype=torch.float32), said, name=name, model=model, where=name)
    return _unscaled(made, said, scale, None)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
