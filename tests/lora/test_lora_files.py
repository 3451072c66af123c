"""Adapters as files: peft's own format both ways, nothing of this machine in them, and what can't be trusted refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import FAMILY, METHODS, adapter_of, lab_of, logits, peft_of
from safetensors.torch import load_file, save_file

import labkit as lk

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.mark.parametrize("method", METHODS)
def test_there_and_back(method: str, tmp_path: Path) -> None:
    import peft

    lab = lab_of(FAMILY.get(method, "llama3"))
    adapter = adapter_of(lab, **METHODS[method])
    with adapter.on():
        expected = logits(lab.model)
    folder = adapter.save(tmp_path / "mine")
    again = lk.lora.load(lab, folder)
    assert again.name == "mine"
    assert not again.notes
    with again.on():
        assert torch.equal(logits(lab.model), expected)
    theirs = peft.PeftModel.from_pretrained(lab_of(FAMILY.get(method, "llama3")).model, folder).eval()
    torch.testing.assert_close(logits(theirs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "dora", "all linear", "saved modules", "embedding"])
def test_what_peft_wrote(method: str, tmp_path: Path) -> None:
    lab = lab_of()
    tuned = peft_of(lab, **METHODS[method])
    tuned.save_pretrained(tmp_path, save_embedding_layers=False)
    adapter = lk.lora.load(lab, str(tmp_path), name="theirs")
    assert "can't be verified" in repr(adapter)
    with adapter.on():
        torch.testing.assert_close(logits(lab.model), logits(tuned), rtol=1e-5, atol=1e-5)


def test_an_embedding_that_peft_copied_is_no_change(tmp_path: Path) -> None:
    lab = lab_of()
    tuned = peft_of(lab, **METHODS["embedding"])
    tuned.save_pretrained(tmp_path, save_embedding_layers=True)
    assert any("base_layer" in name for name in load_file(tmp_path / WEIGHTS))
    adapter = lk.lora.load(lab, tmp_path)
    assert not adapter.replaced
    with adapter.on():
        torch.testing.assert_close(logits(lab.model), logits(tuned), rtol=1e-5, atol=1e-5)


def test_a_second_merge_is_told(tmp_path: Path) -> None:
    lab = lab_of()
    merged = adapter_of(lab).merge(progress=False)
    assert "merged into it already" in repr(lk.lora.load(merged, _foreign(lab, tmp_path / "theirs")))


def test_no_path_of_this_machine(tmp_path: Path) -> None:
    lab = lab_of()
    lab.model.config._name_or_path = str(tmp_path / "secret" / "model")
    folder = adapter_of(lab).save(tmp_path / "mine")
    for file in folder.iterdir():
        assert b"secret" not in file.read_bytes(), file.name
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    assert json.loads((folder / CONFIG).read_text())["base_model_name_or_path"] is None
    lab.model.config._name_or_path = "somebody/a-model"
    folder = adapter_of(lab).save(tmp_path / "other")
    assert json.loads((folder / CONFIG).read_text())["base_model_name_or_path"] == "somebody/a-model"
    assert not list(tmp_path.glob(".*"))


def test_saving_again_replaces(tmp_path: Path) -> None:
    lab = lab_of()
    adapter_of(lab, seed=1).save(tmp_path / "mine")
    newer = adapter_of(lab, seed=2)
    newer.save(tmp_path / "mine")
    again = lk.lora.load(lab, tmp_path / "mine")
    assert all(torch.equal(value, newer.tensors[name]) for name, value in again.tensors.items())
    (tmp_path / "file").write_text("x")
    with pytest.raises(lk.BadInput, match="is a file"):
        newer.save(tmp_path / "file")


def test_another_base_is_refused(tmp_path: Path) -> None:
    lab, other = lab_of(), lab_of(seed=3)
    folder = adapter_of(lab).save(tmp_path / "mine")
    with pytest.raises(lk.BadInput, match="other_base=True"):
        lk.lora.load(other, folder)
    forced = lk.lora.load(other, folder, other_base=True)
    assert "another model" in repr(forced)
    with forced.on():
        assert logits(other.model).isfinite().all()
    half = lab_of()
    half.model.to(torch.bfloat16)
    assert not lk.lora.load(half, folder).notes
    trained = lab_of()
    with torch.no_grad():
        trained.model.model.layers[1].mlp.down_proj.weight.mul_(1.1)
    with pytest.raises(lk.BadInput, match="other weights in its layers"):
        lk.lora.load(trained, folder)


def _changed(folder: Path, change: Any) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_shapes_and_names_that_do_not_fit(tmp_path: Path) -> None:
    lab = lab_of()
    wide = lab_of(hidden_size=64)
    with pytest.raises(lk.BadInput, match="wide, not"):
        lk.lora.load(lab, _foreign(wide, tmp_path / "wide"))
    with pytest.raises(lk.BadInput, match=r"it has no model\.layers\.2"):
        lk.lora.load(lab, _foreign(lab_of(num_hidden_layers=3), tmp_path / "deep"))
    folder = _foreign(lab, tmp_path / "half")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    _changed(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(lk.BadModelFile, match="no pair"):
        lk.lora.load(lab, folder)


def _foreign(lab: lk.Lab, folder: Path) -> Path:
    peft_of(lab).save_pretrained(folder)
    return folder


def test_what_cannot_be_trusted_is_refused(tmp_path: Path) -> None:
    lab = lab_of()
    with pytest.raises(lk.ModelNotFound):
        lk.lora.load(lab, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(lk.BadModelFile, match="no adapter_config"):
        lk.lora.load(lab, tmp_path / "empty")
    pickled = adapter_of(lab).save(tmp_path / "pickled")
    (pickled / WEIGHTS).rename(pickled / "adapter_model.bin")
    with pytest.raises(lk.BadModelFile, match="pickle"):
        lk.lora.load(lab, pickled)
    cut = adapter_of(lab).save(tmp_path / "cut")
    (cut / WEIGHTS).write_bytes((cut / WEIGHTS).read_bytes()[:-10])
    with pytest.raises(lk.BadModelFile):
        lk.lora.load(lab, cut)
    broken = adapter_of(lab).save(tmp_path / "nan")
    _changed(broken, lambda tensors: next(iter(tensors.values())).fill_(float("nan")))
    with pytest.raises(lk.BadModelFile, match="NaN"):
        lk.lora.load(lab, broken)


def test_weights_that_were_lost_on_the_way_are_told(tmp_path: Path) -> None:
    lab = lab_of()
    untrained = peft_of(lab, size=0.0)
    untrained.save_pretrained(tmp_path / "untrained")
    assert "changes nothing" in repr(lk.lora.load(lab, tmp_path / "untrained"))
    partial = adapter_of(lab).save(tmp_path / "partial")
    of_v = [name for name in load_file(partial / WEIGHTS) if "layers.1.self_attn.v_proj" in name]
    assert len(of_v) == 2
    _changed(partial, lambda tensors: [tensors.pop(name) for name in of_v])
    (note,) = (note for note in lk.lora.load(lab, partial).notes if "no update of" in note)
    assert "model.layers.1.self_attn.v_proj, which" in note
    named = adapter_of(lab).save(tmp_path / "named")
    tensors = {name.replace(".weight", ".default.weight"): value for name, value in load_file(named / WEIGHTS).items()}
    save_file(tensors, named / WEIGHTS)
    with pytest.raises(lk.BadModelFile, match=r"names its tensors as a model in training does .*lora_A\.default"):
        lk.lora.load(lab, named)


def test_tokens_that_the_base_lacks_are_told(tmp_path: Path) -> None:
    lab, longer = lab_of(), lab_of(vocab_size=103)
    adapter_of(longer, modules_to_save=["embed_tokens"]).save(tmp_path / "longer")
    with pytest.raises(lk.BadInput, match=r"has 100 rows, not 103, .*resize_token_embeddings\(103\)"):
        lk.lora.load(lab, tmp_path / "longer", other_base=True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa"}, "changed before training"),
        ({"alora_invocation_tokens": [1, 2]}, "activated LoRA"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "fused"),
        ({"r": "many", "lora_alpha": None}, "save"),
        ({"use_future_variant": True}, "use_future_variant"),
    ],
)
def test_configurations_that_labkit_does_not_compute(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    lab = lab_of()
    folder = adapter_of(lab).save(tmp_path / "mine")
    config = json.loads((folder / CONFIG).read_text()) | fields
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(lk.BadModelFile, match=said):
        lk.lora.load(lab, folder)


def test_unknown_settings_that_are_off_do_no_harm(tmp_path: Path) -> None:
    lab = lab_of()
    folder = adapter_of(lab).save(tmp_path / "mine")
    off = {"use_future_variant": False, "future_config": None, "future_names": [], "future": {}}
    config = json.loads((folder / CONFIG).read_text()) | off
    (folder / CONFIG).write_text(json.dumps(config))
    assert lk.lora.load(lab, folder).low_ranks


def half(lab: lk.Lab) -> lk.Lab:
    lab.model.to(torch.float16)
    return lab


def test_float16_can_t_be_verified_and_is_told(tmp_path: Path) -> None:
    lab = lab_of()
    of_half = adapter_of(half(lab_of())).save(tmp_path / "half")
    of_float = adapter_of(lab).save(tmp_path / "float")
    for base, folder in ((lab_of(seed=3), of_half), (half(lab_of(seed=3)), of_half), (half(lab_of()), of_float)):
        adapter = lk.lora.load(base, folder)
        assert [note for note in adapter.notes if "float16" in note], base.dtype
        assert not [note for note in adapter.notes if "quantized" in note]
    with pytest.raises(lk.BadInput, match="other names or shapes"):
        lk.lora.load(half(lab_of(num_hidden_layers=1)), of_half)


def test_that_it_was_trained_beside_a_quantized_copy_is_kept(tmp_path: Path) -> None:
    lab = lab_of()
    packed = lk.quantization.quantize(lab, "int4", progress=False)
    adapter = lk.lora.taken(peft_of(packed), lab)
    again = lk.lora.load(lab, adapter.save(tmp_path / "mine"))
    assert again.notes == adapter.notes != ()
    assert "quantized copy" in again.notes[0]


def _other_packing(adapter: lk.lora.Adapter[Any]) -> list[str]:
    return [note for note in adapter.notes if note.startswith("it was trained beside weights")]


def test_weights_that_are_stored_otherwise_are_told_both_ways(tmp_path: Path) -> None:
    lab = lab_of()
    int4, int8 = (lk.quantization.quantize(lab, name, progress=False) for name in ("int4", "int8"))
    of_int4 = lk.lora.taken(peft_of(int4), int4).save(tmp_path / "int4")
    of_float = adapter_of(lab).save(tmp_path / "float")
    (note,) = _other_packing(lk.lora.load(lab, of_int4))
    assert "weights that are packed as int4" in note
    assert "those here are not quantized" in note
    assert "those here are packed as int8" in repr(lk.lora.load(int8, of_int4))
    (note,) = _other_packing(lk.lora.load(int4, of_float))
    assert "that are not quantized, and those here are packed as int4" in note
    assert not lk.lora.load(int4, of_int4).notes
    assert not lk.lora.load(lab, of_float).notes
    there_and_back = lk.lora.load(lab, of_int4).for_lab(int8).for_lab(int4)
    assert not there_and_back.notes
    packed = int4.model.half()
    assert _other_packing(lk.lora.load(lk.Lab(packed, int4.tokenizer, name="half"), of_float))


def test_the_hub_is_asked_for_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    lab = lab_of()
    folder = adapter_of(lab).save(tmp_path / "mine")
    asked: list[str] = []

    def fetch(name: str, file: str, **_: Any) -> str:
        asked.append(f"{name}/{file}")
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    adapter = lk.lora.load(lab, "somebody/an-adapter")
    assert asked == [f"somebody/an-adapter/{CONFIG}", f"somebody/an-adapter/{WEIGHTS}"]
    assert adapter.name == "somebody/an-adapter"
