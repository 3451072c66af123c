"""Every form of cfg.json and every setting is as sae-lens computes it, or refused with the reason."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import dictionaries
import pytest
import torch
from dictionaries import FEATURES, WIDTH, folder, make_lab
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import labkit as lk
from labkit.errors import BadInput, BadModelFile, Unavailable

HOOK = "blocks.1.hook_resid_pre"
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def activations(*shape: int) -> torch.Tensor:
    return 2 * torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(4))


def written(path: Path, settings: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """A folder with just these settings beside the sizes."""
    path.mkdir()
    sizes = {"d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "device": "cpu"}
    (path / "cfg.json").write_text(json.dumps(sizes | settings))
    save_file(tensors or dictionaries.weights("topk"), path / "sae_weights.safetensors")
    return path


# forms of cfg.json, earlier and today's --------------------------------------------------------------------------------

RUNNER = {  # what a training run of sae-lens 2 and 3 wrote beside its weights
    "model_name": "tiny",
    "model_class_name": "HookedTransformer",
    "hook_name": "blocks.1.hook_resid_pre",
    "hook_eval": "NOT_IN_USE",
    "hook_layer": 1,
    "hook_head_index": None,
    "context_size": 512,
    "is_dataset_tokenized": True,
    "normalize_sae_decoder": True,
    "apply_b_dec_to_input": True,
    "activation_fn": "relu",
    "activation_fn_kwargs": {},
    "finetuning_scaling_factor": False,
    "normalize_activations": "none",
    "expansion_factor": 16,
}
FORMS: dict[str, dict[str, Any]] = {
    "hook_point": {"hook_point": HOOK, "hook_point_layer": 1, "hook_point_head_index": None},
    "hook_point of a layer": {"hook_point": "blocks.{layer}.hook_resid_pre", "hook_point_layer": 1},
    "hook_name and hook_layer": {"hook_name": HOOK, "hook_layer": 1, "activation_fn_str": "relu"},
    "topk by its activation function": {
        "hook_name": HOOK,
        "architecture": "standard",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 6},
    },
    "topk with k among the arguments": {
        "hook_name": HOOK,
        "architecture": "topk",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 6},
    },
    "a run's settings": RUNNER,
    "not normalized, as a bool": {"hook_name": HOOK, "normalize_activations": False},
    "today": {"architecture": "topk", "k": 3, "metadata": {"hook_name": HOOK, "sae_lens_version": "6.54.12"}},
    "in bfloat16": {
        "architecture": "standard",
        "dtype": "torch.bfloat16",
        "metadata": {"hook_name": HOOK, "sae_lens_version": "6.1.0"},
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_as_sae_lens_reads_it(form: str, tmp_path: Path, sae_lens: Any) -> None:
    path = written(tmp_path / "it", FORMS[form])
    sae, library = lk.sae.load(path), sae_lens.SAE.load_from_disk(path, dtype="float32")
    x = activations(20)
    with torch.no_grad():
        torch.testing.assert_close(sae.encode(x), library.encode(x), **TOLERANCE)
        torch.testing.assert_close(sae.reconstruct(x), library(x), **TOLERANCE)
    assert sae.layer == 1
    assert sae.model == FORMS[form].get("model_name")


def test_the_first_forms_normalization_as_a_bool_is_said(tmp_path: Path, sae_lens: Any) -> None:
    path = written(tmp_path / "it", {"hook_name": HOOK, "normalize_activations": True})
    with pytest.warns(UserWarning, match=r"not by which; .* give that number, lk.sae.load\(\.\.\., scale=\.\.\.\)"):
        sae = lk.sae.load(path)
    library = sae_lens.SAE.load_from_disk(path, dtype="float32")
    torch.testing.assert_close(sae.reconstruct(activations(5)), library(activations(5)).detach(), **TOLERANCE)


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("model.layers.5", 6),
        ("transformer.h.3", 4),
        ("gpt_neox.layers.0", 1),
        ("model.decoder.layers.2", 3),
        ("model.language_model.layers.7", 8),
        ("model.layers.5.output", 6),
        ("model.layers.5.input", 5),
        ("layers.5", 6),
        ("blocks.5.hook_in", 5),
        ("blocks.5.hook_out", 6),
    ],
)
def test_a_place_named_by_a_module_is_what_leaves_it(hook: str, layer: int, tmp_path: Path) -> None:
    assert lk.sae.load(folder(tmp_path / "it", changed={"metadata": {"hook_name": hook}})).layer == layer


def test_a_module_s_output_is_what_the_autoencoder_reads(tmp_path: Path) -> None:
    for family, hook in (("llama2", "model.layers.0"), ("gpt2", "transformer.h.0"), ("gpt_neox", "gpt_neox.layers.0")):
        lab = make_lab(family)
        sae = lk.sae.load(folder(tmp_path / family, changed={"metadata": {"hook_name": hook}}))
        seen = []
        handle = lab.model.get_submodule(hook).register_forward_hook(
            lambda _m, _i, out, seen=seen: seen.append(out if isinstance(out, torch.Tensor) else out[0])
        )
        lab.trace("t5 t6 t7 t8")
        handle.remove()
        found = lk.sae.residual(lab, "t5 t6 t7 t8", sae.layer)
        torch.testing.assert_close(found, seen[-1].reshape(found.shape).detach(), rtol=1e-5, atol=1e-5)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "stream in the middle of a layer": ({"hook_name": "blocks.3.hook_resid_mid"}, "reads 'blocks.3.hook_resid_mid'"),
    "mlp": ({"hook_name": "blocks.3.hook_mlp_out"}, "reads 'blocks.3.hook_mlp_out'"),
    "attention": ({"hook_name": "blocks.3.hook_attn_out"}, "reads 'blocks.3.hook_attn_out'"),
    "heads": ({"hook_name": "blocks.3.attn.hook_z"}, "reads 'blocks.3.attn.hook_z'"),
    "heads side by side": ({"hook_name": HOOK, "reshape_activations": "hook_z"}, "heads of an attention layer"),
    "a head": ({"hook_name": HOOK, "hook_head_index": 3}, "of head 3"),
    "a head, as it was called first": ({"hook_point": HOOK, "hook_point_head_index": 0}, "of head 0"),
    "a module in a layer": ({"hook_name": "model.layers.5.mlp"}, "reads 'model.layers.5.mlp'"),
    "an embedding": ({"hook_name": "model.embed_tokens"}, "reads 'model.embed_tokens'"),
    "pictures": ({"hook_name": "model.vision_tower.layers.5"}, "reads 'model.vision_tower"),
    "tanh": ({"hook_name": HOOK, "activation_fn_str": "tanh-relu"}, "activation function 'tanh-relu'"),
    "batchtopk as a function": ({"hook_name": HOOK, "activation_fn_str": "batchtopk"}, "function 'batchtopk'"),
    "topk and no k": ({"hook_name": HOOK, "activation_fn_str": "topk"}, "activation function 'topk'"),
    "signed topk": (
        {"hook_name": HOOK, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6, "signed": True}},
        "keeps the sign",
    ),
    "transcoder": ({"hook_name": HOOK, "architecture": "transcoder", "d_out": WIDTH}, "is a transcoder"),
    "skip transcoder": ({"hook_name": HOOK, "architecture": "skip_transcoder"}, "is a transcoder"),
    "jumprelu transcoder": ({"hook_name": HOOK, "architecture": "jumprelu_skip_transcoder"}, "is a transcoder"),
    "another place out": ({"hook_name": HOOK, "hook_name_out": "blocks.1.hook_mlp_out"}, "is a transcoder"),
    "temporal": ({"hook_name": HOOK, "architecture": "temporal"}, "is of kind temporal"),
    "a normalization": (
        {"hook_name": HOOK, "normalize_activations": "by heart"},
        "normalizes what it reads by 'by heart'",
    ),
    "whitened": ({"hook_name": HOOK, "normalize_activations": "covariance_whitening"}, "the matrix is not beside it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_rightly_is_refused(case: str, tmp_path: Path) -> None:
    settings, said = REFUSED[case]
    with pytest.raises(Unavailable, match=said) as caught:
        lk.sae.load(written(tmp_path / "it", settings))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_k_of_the_activation_function_has_to_be_one(tmp_path: Path) -> None:
    settings = {"hook_name": HOOK, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": "6"}}
    with pytest.raises(BadModelFile, match="says '6' where k"):
        lk.sae.load(written(tmp_path / "it", settings))


def test_a_file_of_another_library_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cfg.json").write_text("{}")
    (tmp_path / "a" / "sae.safetensors").write_bytes(b"")
    with pytest.raises(BadModelFile, match=r"sae\.safetensors is of the library sparsify.*sparsify_disk_loader"):
        lk.sae.load(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "final_sparse_autoencoder.pt").write_bytes(b"")
    with pytest.raises(BadModelFile, match=r"final_sparse_autoencoder\.pt: This is a pickle, which runs code"):
        lk.sae.load(tmp_path / "b")
    with pytest.raises(BadInput, match=r"is a file; .*This is a pickle, which runs code"):
        lk.sae.load(tmp_path / "b" / "final_sparse_autoencoder.pt")


# factors of features, and what activations were multiplied by ----------------------------------------------------------


@pytest.mark.parametrize("key", ["scaling_factor", "finetuning_scaling_factor"])
def test_factors_of_a_fine_tuning_count_in_the_sum_and_not_in_the_activations(key: str, tmp_path: Path) -> None:
    """As sae-lens did until 6, which can't open such a file: features times factors, then the decoder."""
    tensors = dictionaries.weights("standard")
    factor = 0.5 + torch.rand(FEATURES, generator=torch.Generator().manual_seed(1))
    settings = {"hook_name": HOOK, "finetuning_scaling_factor": True}
    sae = lk.sae.load(written(tmp_path / "it", settings, tensors | {key: factor}))
    plain = lk.sae.load(written(tmp_path / "plain", settings, tensors))
    x = activations(9)
    torch.testing.assert_close(sae.encode(x), plain.encode(x))
    wanted = (plain.encode(x) * factor) @ tensors["W_dec"] + tensors["b_dec"]
    torch.testing.assert_close(sae.reconstruct(x), wanted, **TOLERANCE)
    torch.testing.assert_close(sae.sae.decode(sae.sae.encode(x)).detach(), wanted, **TOLERANCE)
    # factors of 1 are none, and others that cfg.json does not speak of are no matter to pass over
    unused = lk.sae.load(written(tmp_path / "ones", {"hook_name": HOOK}, tensors | {key: torch.ones(FEATURES)}))
    assert unused.fingerprint == plain.fingerprint
    with pytest.raises(BadModelFile, match=r"has a factor for each feature, and its cfg\.json says it has none"):
        lk.sae.load(written(tmp_path / "silent", {"hook_name": HOOK}, tensors | {key: factor}))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("topk", {"k": 5, "rescale_acts_by_decoder_norm": True}),
        ("topk", {"k": 5, "rescale_acts_by_decoder_norm": False}),
        ("batchtopk", {"k": 5, "rescale_acts_by_decoder_norm": True}),
        ("matryoshka_batchtopk", {"k": 5, "matryoshka_widths": [10, FEATURES]}),
        ("jumprelu", {"jumprelu_init_threshold": 0.3}),
        ("gated", {}),
        ("standard", {"apply_b_dec_to_input": False}),
        ("abstopk", {"k": 5}),
    ],
)
@pytest.mark.parametrize("normalization", ["none", "expected_average_only_in", "covariance_whitening"])
def test_a_checkpoint_of_a_training_run_is_what_the_run_would_end_with(
    kind: str, settings: dict[str, Any], normalization: str, tmp_path: Path, sae_lens: Any
) -> None:
    """The weights are for activations as the training had them; sae-lens puts that into the weights at the end."""
    from sae_lens.registry import get_sae_training_class
    from sae_lens.training.activation_scaler import ActivationScaler

    sae_class, config_class = get_sae_training_class(kind)
    settings = settings | {"normalize_activations": normalization}
    training = sae_class(config_class(d_in=WIDTH, d_sae=FEATURES, **settings))
    training.cfg.metadata.hook_name = HOOK
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(2)
        for name, parameter in training.named_parameters():
            parameter.copy_(parameter.abs() if "threshold" in name else 0.3 * torch.randn_like(parameter))
        if "batchtopk" in kind:
            training.topk_threshold = torch.tensor(0.4, dtype=training.topk_threshold.dtype)
    scaler = ActivationScaler()
    x = activations(400) + torch.linspace(0, 3, WIDTH)
    path = tmp_path / "checkpoint"
    training.save_model(path)
    if normalization == "expected_average_only_in":
        scaler.scaling_factor = 0.37
    if normalization == "covariance_whitening":
        mix = torch.eye(WIDTH) + 0.1 * torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))
        mean, inverse = x.mean(0), torch.linalg.inv(mix)
        save_file(
            {"mean": mean, "matrix": mix, "inverse_matrix": inverse.contiguous()},
            path / "activation_whitening.safetensors",
        )
    scaler.save(str(path / "activation_scaler.json"))
    save_file({"sparsity": torch.zeros(FEATURES)}, path / "sparsity.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all is known
        sae = lk.sae.load(path)
    # the same run, at its end
    if normalization == "expected_average_only_in":
        training.fold_activation_norm_scaling_factor(0.37)
    if normalization == "covariance_whitening":
        training.fold_activation_whitening(mean, mix, inverse)
    training.save_inference_model(tmp_path / "end")
    library = sae_lens.SAE.load_from_disk(tmp_path / "end", dtype="float32")
    with torch.no_grad():
        wanted = library.encode(x)
        assert bool((wanted != 0).any())
        torch.testing.assert_close(sae.encode(x), wanted, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(sae.reconstruct(x), library(x), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(sae.sae.encode(x), wanted, rtol=1e-3, atol=1e-4)  # sae-lens's own class of it
    # and saved from here it stays the same
    again = lk.sae.load(sae.save(tmp_path / "saved"))
    torch.testing.assert_close(again.encode(x), sae.encode(x))
    torch.testing.assert_close(again.reconstruct(x), sae.reconstruct(x))


def test_a_scale_that_is_known_is_given(tmp_path: Path) -> None:
    settings = {"hook_name": HOOK, "normalize_activations": "expected_average_only_in"}
    path = written(tmp_path / "it", settings, dictionaries.weights("standard"))
    plain = lk.sae.load(folder(tmp_path / "plain", "standard"))
    x = activations(7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, scaled = lk.sae.load(path, scale=1), lk.sae.load(path, scale=0.25)
    torch.testing.assert_close(one.encode(x), plain.encode(x))
    torch.testing.assert_close(scaled.encode(x), plain.encode(0.25 * x), **TOLERANCE)
    torch.testing.assert_close(scaled.reconstruct(x), plain.reconstruct(0.25 * x) / 0.25, **TOLERANCE)
    for bad in (0, -1, "2", True, float("nan")):
        with pytest.raises(BadInput, match="scale="):
            lk.sae.load(path, scale=bad)
    with pytest.raises(BadInput, match="was trained on activations as they are; leave scale away"):
        lk.sae.load(tmp_path / "plain", scale=2.0)


def test_damaged_numbers_beside_the_weights_are_refused(tmp_path: Path) -> None:
    average = {"hook_name": HOOK, "normalize_activations": "expected_average_only_in"}
    whitened = {"hook_name": HOOK, "normalize_activations": "covariance_whitening"}
    path = written(tmp_path / "a", average, dictionaries.weights("standard"))
    for said in ("[1]", '{"scaling_factor": 0}', '{"scaling_factor": -1}'):
        (path / "activation_scaler.json").write_text(said)
        with pytest.raises(BadModelFile, match=r"activation_scaler\.json"):
            lk.sae.load(path)
    path, beside = written(tmp_path / "b", whitened), "activation_whitening.safetensors"
    square = torch.eye(WIDTH)
    for mean, matrix in ((torch.full((WIDTH,), torch.nan), square), (torch.zeros(WIDTH - 1), square)):
        save_file({"mean": mean, "matrix": matrix, "inverse_matrix": square.clone()}, path / beside)
        with pytest.raises(BadModelFile, match=r"activation_whitening\.safetensors"):
            lk.sae.load(path)
    (path / beside).write_bytes(b"none")
    with pytest.raises(BadModelFile, match=r"activation_whitening\.safetensors"):
        lk.sae.load(path)
    factors = dictionaries.weights("standard") | {"scaling_factor": 2 * torch.ones(3)}
    with pytest.raises(BadModelFile, match=r"scaling_factor has shape \[3\]"):
        lk.sae.load(written(tmp_path / "c", {"hook_name": HOOK, "finetuning_scaling_factor": True}, factors))


def test_tokens_and_rows_of_no_length_and_contexts_of_any_are_taken(tmp_path: Path) -> None:
    nothing = torch.zeros(2, WIDTH)
    for how in ("constant_norm_rescale", "layer_norm"):
        sae = lk.sae.load(folder(tmp_path / how, changed={"normalize_activations": how}))
        assert bool(sae.reconstruct(nothing).isfinite().all())
    flat = dictionaries.weights("topk") | {"W_dec": torch.zeros(FEATURES, WIDTH)}
    sae = lk.sae.load(folder(tmp_path / "flat", tensors=flat, changed={"rescale_acts_by_decoder_norm": True}))
    assert bool(sae.reconstruct(activations(3)).isfinite().all())
    metadata = {"hook_name": HOOK, "seqpos_slice": [0, -5], "context_size": 10**12}
    sae = lk.sae.load(folder(tmp_path / "long", changed={"metadata": metadata}))
    assert sae.defined(activations(3)).tolist() == [False, True, True]


def test_logarithms_of_thresholds_are_those_of_thresholds(tmp_path: Path) -> None:
    tensors = dictionaries.weights("jumprelu")
    old = {k: v for k, v in tensors.items() if k != "threshold"} | {"log_threshold": tensors["threshold"].log()}
    sae = lk.sae.load(folder(tmp_path / "old", "jumprelu", tensors=old))
    torch.testing.assert_close(
        sae.encode(activations(8)), lk.sae.load(folder(tmp_path / "new", "jumprelu")).encode(activations(8))
    )
    torch.testing.assert_close(sae.sae.encode(activations(8)).detach(), sae.encode(activations(8)), **TOLERANCE)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gated", {}),
        ("abstopk", {"k": 4}),
        ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True}),
        ("standard", {"normalize_activations": "layer_norm"}),
        ("jumprelu", {"normalize_activations": "constant_norm_rescale"}),
    ],
)
def test_every_kind_computed_here_is_saved_as_it_was_read(
    kind: str, settings: dict[str, Any], tmp_path: Path, sae_lens: Any
) -> None:
    path = dictionaries.library_folder(tmp_path / "it", kind, **settings)
    sae = lk.sae.load(path)
    assert sae._library is None
    again = lk.sae.load(sae.save(tmp_path / "again"))
    x = activations(6)
    assert again.fingerprint == sae.fingerprint
    torch.testing.assert_close(again.encode(x), sae.encode(x))
    torch.testing.assert_close(again.reconstruct(x), sae.reconstruct(x))
    library = sae_lens.SAE.load_from_disk(tmp_path / "again", dtype="float32")
    torch.testing.assert_close(library(x).detach(), sae.reconstruct(x), **TOLERANCE)


# the model it was trained on --------------------------------------------------------------------------------------------


def test_a_checkpoint_of_the_models_training_is_another_model(tmp_path: Path) -> None:
    options = {"center_writing_weights": False, "checkpoint_value": 512, "n_devices": 2}
    metadata = {"hook_name": HOOK, "model_name": "llama2", "model_from_pretrained_kwargs": options}
    sae = lk.sae.load(folder(tmp_path / "it", changed={"metadata": metadata}))
    assert sae.model == "llama2, checkpoint 512"
    with pytest.raises(BadInput, match="was trained on llama2, checkpoint 512, and this is llama2"):
        lk.sae.features(make_lab(), sae, "t5 t6 t7")
    options["checkpoint_value"] = None  # type: ignore[assignment]
    assert (
        lk.sae.load(
            folder(tmp_path / "it", changed={"metadata": metadata | {"model_from_pretrained_kwargs": options}})
        ).model
        == "llama2"
    )


@pytest.mark.parametrize(
    "option", ["fold_ln", "fold_value_biases", "refactor_factored_attn_matrices", "center_unembed"]
)
def test_what_leaves_the_residual_stream_as_it_is_changes_nothing(option: str, tmp_path: Path) -> None:
    options = {"hook_name": HOOK, "model_from_pretrained_kwargs": {option: True}}
    sae = lk.sae.load(folder(tmp_path / "it", changed={"metadata": options}))
    plain = lk.sae.load(folder(tmp_path / "plain"))
    assert not sae.centred
    torch.testing.assert_close(sae.encode(activations(4)), plain.encode(activations(4)))


def test_a_centred_stream_is_one_of_models_whose_norms_take_the_mean_away(tmp_path: Path) -> None:
    """TransformerLens leaves the weights of models with RMSNorm as they are."""
    options = {"hook_name": HOOK, "model_from_pretrained_kwargs": {"center_writing_weights": True}}
    sae = lk.sae.load(folder(tmp_path / "it", changed={"metadata": options}))
    for family in ("gpt2", "gpt_neox", "opt"):
        lk.sae.features(make_lab(family), sae, "t5 t6 t7")
    for family in ("llama2", "gemma2", "qwen2"):
        with pytest.raises(BadInput, match=r"the mean of each token .* set sae\.centred = False"):
            lk.sae.features(make_lab(family), sae, "t5 t6 t7")
    sae.centred = False
    lk.sae.features(make_lab(), sae, "t5 t6 t7")


# texts behind the token that begins them --------------------------------------------------------------------------------


def tokenizer(*, begins: bool, adds: bool, ends: bool = True) -> PreTrainedTokenizerFast:
    """Words t3, t4, ...; <s>, 1, begins a text, and is put there or not, and </s>, 2, ends one."""
    names = ["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(3, 100))]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds:
        words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = ({"bos_token": "<s>"} if begins else {}) | ({"eos_token": "</s>"} if ends else {})
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>", **special)


def lab_with(made: PreTrainedTokenizerFast) -> lk.Lab:
    return lk.Lab(make_lab().model, made, name="llama2")


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize(
    ("begins", "front"), [(True, [1]), (False, []), (None, None)], ids=["behind it", "without", "not said"]
)
def test_a_text_is_read_as_the_training_had_it(
    begins: bool | None, front: list[int] | None, adds: bool, tmp_path: Path, sae_lens: Any
) -> None:
    metadata = {"hook_name": HOOK} | ({} if begins is None else {"prepend_bos": begins})
    path = folder(tmp_path / "it", changed={"metadata": metadata | {"sae_lens_version": "6.54.12"}})
    sae, lab = lk.sae.load(path), lab_with(tokenizer(begins=True, adds=adds))
    assert sae.begins is begins
    text = "t5 t6 t7 t8"
    wanted = [*(([1] if adds else []) if front is None else front), 5, 6, 7, 8]
    found = lk.sae.features(lab, sae, text)
    assert found.ids == wanted
    with torch.no_grad():
        residual = lab.model(input_ids=torch.tensor([wanted]), output_hidden_states=True).hidden_states[1][0]
        right = sae_lens.SAE.load_from_disk(path, dtype="float32").encode(residual)
    got = torch.stack([found.of(i) for i in range(FEATURES)], -1)
    torch.testing.assert_close(got[1:], right[1:], rtol=1e-3, atol=1e-4)
    # what begins with it has it once; ids, a tensor of them and messages are as they are
    if front:
        assert lk.sae.features(lab, sae, "<s> t5 t6").ids == [1, 5, 6]
    assert lk.sae.features(lab, sae, [5, 6]).ids == [5, 6]
    assert lk.sae.features(lab, sae, torch.tensor([5, 6])).ids == [5, 6]
    with pytest.raises(BadInput, match="nothing to trace"):
        lk.sae.features(lab, sae, "") if front is not None or not adds else lk.sae.features(lab, sae, [])


def test_all_that_reads_texts_for_an_autoencoder_reads_them_so(tmp_path: Path) -> None:
    metadata = {"hook_name": HOOK, "prepend_bos": True, "sae_lens_version": "6.54.12"}
    sae = lk.sae.load(folder(tmp_path / "it", changed={"metadata": metadata}))
    lab = lab_with(tokenizer(begins=True, adds=False))
    draw = torch.Generator().manual_seed(0)
    texts = [" ".join(f"t{i}" for i in torch.randint(5, 90, (60,), generator=draw).tolist()) for _ in range(20)]
    behind = [[1, *lab.tokenizer(text).input_ids] for text in texts]
    by_text, by_ids = lk.sae.index(lab, sae, texts), lk.sae.index(lab, sae, behind)
    assert by_text.tokens == by_ids.tokens == 1_200  # each word of each text
    assert (by_text.counts == by_ids.counts).all()
    difference = lk.sae.difference(lab, sae, texts[:10], texts[10:])
    torch.testing.assert_close(difference, lk.sae.difference(lab, sae, behind[:10], behind[10:]))
    measured = [lk.sae.evaluate(lab, sae, some, against=(), progress=False) for some in (texts, behind)]
    assert measured[0].tokens == measured[1].tokens == 1_200
    torch.testing.assert_close(torch.tensor(measured[0].table["loss"][0]), torch.tensor(measured[1].table["loss"][0]))


def test_a_tokenizer_that_begins_no_text(tmp_path: Path) -> None:
    """The token that ends a text stands in front, as TransformerLens has it; where there is none, nothing can."""
    metadata = {"hook_name": HOOK, "prepend_bos": True}
    sae = lk.sae.load(folder(tmp_path / "it", changed={"metadata": metadata}))
    assert lk.sae.features(lab_with(tokenizer(begins=False, adds=False)), sae, "t5 t6").ids == [2, 5, 6]
    lab = lab_with(tokenizer(begins=False, adds=False, ends=False))
    with pytest.raises(BadInput, match=r"llama2's tokenizer has none; give token ids, or set sae\.begins = None"):
        lk.sae.features(lab, sae, "t5 t6")
    sae.begins = None
    assert lk.sae.features(lab, sae, "t5 t6").ids == [5, 6]


def test_the_first_forms_had_it_in_front_unless_they_say_otherwise(tmp_path: Path) -> None:
    for name, form, begins in (
        ("a", {"hook_name": HOOK}, True),
        ("b", {"hook_point": HOOK, "prepend_bos": False}, False),
        ("c", {"metadata": {"hook_name": HOOK, "sae_lens_version": "6.0.0"}}, None),
    ):
        assert lk.sae.load(written(tmp_path / name, form)).begins is begins


# places that the training left out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "context", "read"),
    [
        ([None], None, [1, 2, 3, 4, 5, 6, 7]),
        ([3, None], None, [3, 4, 5, 6, 7]),
        ([2, 6], 10, [2, 3, 4, 5]),
        ([2, -5], 10, [2, 3, 4]),
        ([2, -5], 100, [2, 3, 4, 5, 6, 7]),
        ([2, -5], None, [1, 2, 3, 4, 5, 6, 7]),  # from an end that is not known
        ([1, None, 3], 128, [1, 4, 7]),
    ],
)
def test_features_are_not_defined_where_the_training_did_not_read(
    cut: list[int | None], context: int | None, read: list[int], tmp_path: Path
) -> None:
    metadata = {"hook_name": HOOK, "seqpos_slice": cut} | ({} if context is None else {"context_size": context})
    sae = lk.sae.load(folder(tmp_path / "it", changed={"metadata": metadata}))
    found = lk.sae.features(make_lab(), sae, "t5 t6 t7 t8 t9 t10 t11 t12")
    assert found.defined.nonzero().flatten().tolist() == read
    again = lk.sae.load(sae.save(tmp_path / "again"))
    assert again.defined(torch.ones(8, WIDTH)).nonzero().flatten().tolist() == read


def test_a_slice_that_is_none(tmp_path: Path) -> None:
    for bad in ([1, 2, 3, 4], ["1"], [True], [1, 5, 0]):
        with pytest.raises(BadModelFile, match="where seqpos_slice is to be a slice of positions"):
            lk.sae.load(folder(tmp_path / "it", changed={"metadata": {"hook_name": HOOK, "seqpos_slice": bad}}))


@pytest.mark.parametrize(("out", "read"), [(True, [2, 3, 5]), ([7], [1, 2, 4, 5]), (False, [1, 2, 3, 4, 5])])
def test_features_are_not_defined_at_tokens_that_the_training_left_out(
    out: Any, read: list[int], tmp_path: Path
) -> None:
    metadata = {"hook_name": HOOK, "exclude_special_tokens": out, "sae_lens_version": "6.54.12"}
    sae = lk.sae.load(folder(tmp_path / "it", changed={"metadata": metadata}))
    found = lk.sae.features(lab_with(tokenizer(begins=True, adds=False)), sae, [5, 1, 6, 7, 2, 8])
    assert found.defined.nonzero().flatten().tolist() == read


def test_what_the_training_left_out_stays_as_it_is_when_the_loss_is_measured(tmp_path: Path) -> None:
    """Only the tokens that are counted are replaced by a reconstruction."""
    metadata = {"hook_name": HOOK, "exclude_special_tokens": [50], "sae_lens_version": "6.54.12"}
    sae, lab = lk.sae.load(folder(tmp_path / "it", changed={"metadata": metadata})), make_lab()
    draw = torch.Generator().manual_seed(0)
    texts = [
        torch.randint(51, 90, (100,), generator=draw).index_fill(0, torch.arange(0, 100, 2), 50).tolist()
        for _ in range(5)
    ]
    measured = lk.sae.evaluate(lab, sae, texts, against=("zero",), progress=False)
    assert (measured.tokens, measured.left_out) == (250, 250)
    losses = []
    for ids in texts:
        kept = torch.tensor(ids) == 50
        with lab.edit(lk.patch("residual[1]", lambda x, kept=kept: torch.where(kept[:, None], x, torch.zeros_like(x)))):
            losses.append(lab.trace(ids, keep="logits").loss[1:])
    zero = measured.table[(measured.table["way"] == "zero") & (measured.table["kind"] == "all")].iloc[0]
    assert zero["loss_spliced"] == pytest.approx(float(torch.cat(losses).double().mean()), rel=1e-5)


# activations below zero ---------------------------------------------------------------------------------------------------


@pytest.fixture
def signed(tmp_path: Path) -> Any:
    return lk.sae.load(folder(tmp_path / "signed", changed={"architecture": "abstopk", "k": 6}))


TEXTS = ["t5 t6 t7 t8 t9", "t9 t8 t7 t6 t5", "t50 t60 t70 t80 t90", "t91 t71 t61 t51 t41"]


def test_a_features_sign_is_kept(signed: Any) -> None:
    lab = make_lab()
    found = lk.sae.features(lab, signed, TEXTS[0])
    dense = signed.encode(lk.sae.residual(lab, TEXTS[0], 1))
    assert bool((dense[1:] < 0).any())
    for i in range(FEATURES):
        torch.testing.assert_close(found.of(i)[1:], dense[1:, i], **TOLERANCE)
    strongest = found.strongest(5)
    sizes = dense[1:].abs().amax(0).topk(5)
    assert [f.index for f, _, _ in strongest] == sizes.indices.tolist()
    for feature, value, token in strongest:
        assert value == pytest.approx(float(dense[token, feature.index]), rel=1e-4)
    assert [abs(v) for _, v in found.top(1, 6)] == sorted((abs(v) for _, v in found.top(1, 6)), reverse=True)
    assert float(found.unexplained[1:].max()) < 1.5
    assert len(found.table) == 6 * 4


def test_a_feature_is_set_below_zero_and_switched_off_from_there(signed: Any) -> None:
    lab = make_lab()
    index = next(f.index for f, v, _ in lk.sae.features(lab, signed, TEXTS[0]).strongest(40) if v < 0)
    with lab.edit(lk.clamp(signed[index], -40.0)):
        below = lk.sae.features(lab, signed, TEXTS[0]).of(index)
    torch.testing.assert_close(below[1:], torch.full((4,), -40.0), rtol=1e-3, atol=1e-3)
    plain = lk.sae.residual(lab, TEXTS[0], 1)
    active = signed.encode(plain)[:, index] != 0
    active[0] = False
    with lab.edit(lk.clamp(signed[index], 0.0)):
        moved = (lk.sae.residual(lab, TEXTS[0], 1) - plain).norm(dim=-1) > 1e-4
        off = signed.pre_activations(lk.sae.residual(lab, TEXTS[0], 1))[:, index]
    assert torch.equal(moved, active)
    torch.testing.assert_close(off[active], torch.zeros(int(active.sum())), rtol=0, atol=1e-3)


def test_an_index_of_two_sided_features_is_refused(signed: Any) -> None:
    lab = make_lab()
    for call in (
        lambda: lk.sae.index(lab, signed, [[5, 6, 7] * 20] * 20),
        lambda: lk.sae.index(lab, signed),
        lambda: lk.sae.dashboard(lab, signed[3]),
        lambda: lk.sae.search(lab, signed, "t5"),
    ):
        with pytest.raises(Unavailable, match="may be below 0 and so have two sides each"):
            call()


def test_quality_counts_features_below_zero(signed: Any) -> None:
    lab = make_lab()
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(5, 90, (60,), generator=draw).tolist() for _ in range(6)]
    measured = lk.sae.evaluate(lab, signed, texts, losses=False, progress=False)
    own = measured.table[(measured.table["way"] == "sae") & (measured.table["kind"] == "all")].iloc[0]
    assert own["l0"] == 6
    x = torch.cat([lk.sae.residual(lab, ids, 1)[1:] for ids in texts])
    left = (x - signed.reconstruct(x)).square().sum() / (x - x.mean(0)).square().sum()
    assert own["unexplained"] == pytest.approx(float(left), rel=1e-4)
    assert "untrained" in set(measured.table["way"])


def test_the_view_says_that_it_shades_from_zero_up(signed: Any) -> None:
    with pytest.raises(BadInput, match=r"may be below 0, and this view shades a text from 0 up; .* found\.table"):
        lk.views.features(lk.sae.features(make_lab(), signed, TEXTS[0]))


def test_texts_are_parted_by_either_side(signed: Any) -> None:
    lab = make_lab()
    found = lk.sae.common(lab, signed, TEXTS[:2], TEXTS[2:], k=200).table
    dense = [signed.encode(lk.sae.residual(lab, text, 1))[1:] for text in TEXTS]
    for sign in (1, -1):
        heights = torch.stack([(sign * each).amax(0).clamp(min=0) for each in dense])
        margin = heights[:2].amin(0) - heights[2:].amax(0)
        wanted = ((margin > 0) & (heights[:2].amin(0) > 0)).nonzero().flatten().tolist()
        assert sorted(found[found["sign"] == sign]["feature"]) == wanted
    assert len(found) > 0


def test_a_name_is_of_one_side(signed: Any) -> None:
    lab = make_lab()
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(5, 90, (60,), generator=draw).tolist() for _ in range(8)]
    many = lk.sae.features(lab, signed, texts)
    values = torch.cat([each.of(i)[each.defined] for each in many for i in [9]])
    for sign in (1, -1):
        expected = int((sign * values > 0).sum())
        if expected >= 10:
            checked = lk.sae.check_name(lab, signed[9], lambda tokens, i: True, texts, sign=sign)
            assert checked.firings == expected
    assert int((values > 0).sum()) >= 10 or int((values < 0).sum()) >= 10
    with pytest.raises(BadInput, match="sign="):
        lk.sae.check_name(lab, signed[9], lambda tokens, i: True, texts, sign=0)
    plain = lk.sae.load(folder(Path(signed.folder).parent / "plain"))
    with pytest.raises(BadInput, match="are never below 0"):
        lk.sae.check_name(lab, plain[9], lambda tokens, i: True, texts, sign=-1)
