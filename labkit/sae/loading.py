"""Where an autoencoder comes from: labkit itself, a folder of sae-lens's, or one of its releases."""

from __future__ import annotations

import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from labkit.errors import BadInput, BadModelFile, ModelNotFound, Unavailable
from labkit.models.files.common import read_json, sha256
from labkit.models.files.safetensors_header import SafetensorsHeader, read_safetensors_header
from labkit.models.shipped import ASSETS
from labkit.sae.dictionary import PLAIN, SAE
from labkit.sae.saving import CONFIG, WEIGHTS

__all__ = ["load"]

SHIPPED = "labkit-sae"
LARGEST_CONFIG_BYTES = 1_000_000
_RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
_FEATURES_MOST = 10_000_000


def load(name: str | Path | None = None, *, sae_id: str | None = None, model: str | None = None) -> SAE:
    """A sparse autoencoder: the one that comes with labkit, a local folder, or a release of sae-lens by name.

    name: None or "labkit-sae" for the shipped one; a folder with cfg.json and sae_weights.safetensors; or a release, such
        as "gpt2-small-res-jb" (needs a network).
    sae_id: which of a release, such as "blocks.8.hook_resid_pre"; without it the error lists them.
    model: the name of the model it belongs to, where its files don't say or call it otherwise.
    Raises ModelNotFound where there is none, BadModelFile for damaged files, Unavailable for one that reads something
    other than the residual stream, and without a network.
    """
    if name is not None and not isinstance(name, str | Path):
        raise BadInput(f"An autoencoder is asked for by name or folder, and a {type(name).__name__} is neither.")
    if sae_id is not None and (name is None or str(name) == SHIPPED or Path(name).expanduser().is_dir()):
        raise BadInput(
            f"sae_id says which autoencoder of a release, and {name or SHIPPED} is a single one; leave it away."
        )
    if name is None or str(name) == SHIPPED:
        folder = ASSETS / SHIPPED
        _check_shipped(folder)
        return from_folder(folder, name=SHIPPED, model=model)
    path = Path(name).expanduser()
    if path.is_dir():
        return from_folder(path, name=str(name), model=model)
    if path.is_file():
        raise BadInput(f"{path.name} is a file; give the folder with {CONFIG} and {WEIGHTS}.")
    if isinstance(name, Path) or path.is_absolute() or str(name).startswith("."):
        raise ModelNotFound(f"There is no folder {str(name)!r}; give one with {CONFIG} and {WEIGHTS}.")
    return _release(str(name), sae_id, model)


def from_folder(folder: Path, *, name: str, model: str | None = None) -> SAE:
    """An autoencoder from a folder in sae-lens's format, every size checked before a weight is read."""
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise BadModelFile(f"{folder.name} has no {file}; give a folder that sae-lens saved an autoencoder in.")
    config = read_json(folder / CONFIG, LARGEST_CONFIG_BYTES)
    d_in, features = _whole(config, "d_in", folder), _whole(config, "d_sae", folder)
    architecture = config.get("architecture", "standard")
    if not isinstance(architecture, str):
        raise BadModelFile(f"{folder.name}/{CONFIG} has no architecture by name; save it again with sae-lens.")
    metadata = config.get("metadata") if isinstance(config.get("metadata"), dict) else {}
    assert isinstance(metadata, dict)
    layer = _layer(metadata.get("hook_name", config.get("hook_name")), name)
    own = model or metadata.get("model_name") or config.get("model_name")
    if architecture not in PLAIN or not _is_plain(config):
        return _from_library(folder, name=name, model=own, layer=layer)
    header = read_safetensors_header(folder / WEIGHTS)
    shapes = {"W_enc": (d_in, features), "b_enc": (features,), "W_dec": (features, d_in), "b_dec": (d_in,)}
    if architecture == "jumprelu":
        shapes["threshold"] = (features,)
    _check_shapes(header, shapes, folder)
    k = _whole(config, "k", folder) if architecture == "topk" else None
    if k is not None and k > features:
        raise BadModelFile(f"{folder.name}/{CONFIG} keeps {k:,} of {features:,} features; it can keep at most all.")

    from safetensors.torch import load_file

    weights = {key: value.float() for key, value in load_file(folder / WEIGHTS).items() if key in shapes}
    for key, value in weights.items():
        _check_numbers(value, key, folder)
    measured = metadata.get("labkit") if isinstance(metadata.get("labkit"), dict) else {}
    assert isinstance(measured, dict)
    return SAE(
        name=name,
        model=str(own) if own else None,
        layer=layer,
        architecture=architecture,
        encoder=weights["W_enc"],
        encoder_bias=weights["b_enc"],
        decoder=weights["W_dec"],
        decoder_bias=weights["b_dec"],
        threshold=weights.get("threshold"),
        k=k,
        subtracts_bias=bool(config.get("apply_b_dec_to_input", True)),
        centred=_centred(metadata),
        typical_norm=_number(measured.get("typical_norm")),
        outlier=_number(measured.get("outlier")),
        folder=folder,
    )


def _is_plain(config: dict[str, Any]) -> bool:
    """Whether the formula at the top of dictionary.py is all there is to it."""
    return (
        config.get("normalize_activations", "none") == "none"
        and config.get("reshape_activations", "none") == "none"
        and not config.get("rescale_acts_by_decoder_norm", False)
        # before sae-lens 6 one of the k largest called itself standard
        and config.get("activation_fn", config.get("activation_fn_str", "relu")) in ("relu", config.get("architecture"))
        and not config.get("finetuning_scaling_factor", False)
    )


def _centred(metadata: dict[str, Any]) -> bool:
    """Whether the model it was trained on had its writing weights centred, as TransformerLens does unless told not to."""
    options = metadata.get("model_from_pretrained_kwargs")
    return isinstance(options, dict) and bool(options.get("center_writing_weights"))


def _whole(config: dict[str, Any], key: str, folder: Path) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _FEATURES_MOST:
        said = "nothing" if key not in config else repr(value)[:60]
        raise BadModelFile(f"{folder.name}/{CONFIG} says {said} where {key} is to be a whole number above zero.")
    return value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else None


def _check_shapes(header: SafetensorsHeader, shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
    for key, shape in shapes.items():
        if key not in header.tensors:
            raise BadModelFile(f"{folder.name}/{WEIGHTS} has no {key}; get the autoencoder again.")
        if (found := header.tensors[key][1]) != shape:
            raise BadModelFile(
                f"{folder.name}/{WEIGHTS}: {key} has shape {list(found)} where {CONFIG} asks for {list(shape)}; "
                "get the autoencoder again."
            )


def _check_numbers(value: torch.Tensor, key: str, folder: Path) -> None:
    if not bool(value.isfinite().all()):
        raise BadModelFile(f"{folder.name}/{WEIGHTS}: {key} has numbers that are none (NaN or infinite); get it again.")


def _layer(hook: object, name: str) -> int:
    """Which layer's input is read, as trace.residual counts."""
    if not isinstance(hook, str) or not (found := _RESIDUAL.fullmatch(hook)):
        what = f"reads {hook!r}" if isinstance(hook, str) else "does not say where it reads"
        raise Unavailable(
            f"{name} {what}, and labkit attaches autoencoders of the residual stream; "
            "give one for blocks.N.hook_resid_pre or blocks.N.hook_resid_post."
        )
    return int(found[1]) + (found[2] == "post")


def _check_shipped(folder: Path) -> None:
    try:
        sums = json.loads((folder / "SHA256.json").read_text("utf-8"))
        damaged = [file for file, expected in sums.items() if sha256(folder / file) != expected]
    except (OSError, ValueError, AttributeError, ModelNotFound):
        damaged = ["SHA256.json, or a file it names,"]
    if damaged:
        raise BadModelFile(f"{SHIPPED}, which comes with labkit, is damaged ({damaged[0]}); install labkit again.")


# through sae-lens -----------------------------------------------------------------------------------------------------


def _from_library(folder: Path, *, name: str, model: Any, layer: int) -> SAE:
    """One of the other kinds: sae-lens's own class computes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE as LibrarySAE

        read_safetensors_header(folder / WEIGHTS)
        try:
            library = LibrarySAE.load_from_disk(folder, dtype="float32")
        except Exception as error:
            raise BadModelFile(
                f"sae-lens can't open {folder.name} ({_short(error)}); get the autoencoder again."
            ) from error
    for key, value in library.state_dict().items():
        _check_numbers(value, key, folder)
    return _wrapped(library, name=name, model=model, layer=layer, folder=folder)


def _release(release: str, sae_id: str | None, model: str | None) -> SAE:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE as LibrarySAE
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
        library = LibrarySAE.from_pretrained(release, sae_id)
    except Exception as error:
        raise Unavailable(
            f"{release} could not be fetched or opened ({_short(error)}); it needs a network, unless it was fetched before. "
            "lk.sae.load() needs none."
        ) from error
    for key, value in library.state_dict().items():
        if not bool(value.isfinite().all()):
            raise BadModelFile(f"{release}/{sae_id}: {key} has numbers that are none (NaN or infinite); give another.")
    hook = library.cfg.metadata.get("hook_name")
    own = model or library.cfg.metadata.get("model_name") or releases[release].model
    layer = _layer(hook, release)
    return _wrapped(
        library,
        name=f"{release}/{sae_id}",
        model=own,
        layer=layer,
        folder=None,
    )


def _wrapped(library: Any, *, name: str, model: Any, layer: int, folder: Path | None) -> SAE:
    library = library.to(dtype=torch.float32)
    architecture = library.cfg.architecture()
    features = library.W_dec.shape[0]
    bias = getattr(library, "b_enc", None)
    settings = library.cfg.to_dict()
    measured = settings["metadata"].get("labkit")
    measured = measured if isinstance(measured, dict) else {}
    plain = architecture in PLAIN and _is_plain(settings)
    return SAE(
        name=name,
        model=str(model) if model else None,
        layer=layer,
        architecture=architecture if plain or architecture not in PLAIN else f"{architecture}, normalized",
        encoder=library.W_enc.data,
        encoder_bias=torch.zeros(features) if bias is None else bias.data,
        decoder=library.W_dec.data,
        decoder_bias=library.b_dec.data,
        threshold=library.threshold.data if plain and architecture == "jumprelu" else None,
        k=settings.get("k") if plain and architecture == "topk" else None,
        subtracts_bias=bool(settings.get("apply_b_dec_to_input", True)),
        centred=_centred(settings["metadata"]),
        typical_norm=_number(measured.get("typical_norm")),
        outlier=_number(measured.get("outlier")),
        folder=folder,
        _library=library,
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
