"""Opening models: folders, GGUF files, and each kind of input that can't be opened."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import fuzz
import pytest
import torch

import labkit as lk
from labkit.errors import BadInput, BadModelFile, LabError, ModelNotFound, NotEnoughMemory, Unavailable
from labkit.models import convert, hardware, loading


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def test_a_folder_loads_with_the_same_weights(tiny_folder: Path) -> None:
    lab = lk.load(tiny_folder)
    for name, parameter in fuzz.tiny_model().named_parameters():
        assert torch.equal(lab.model.get_parameter(name), parameter), name
    assert lab.dtype is torch.float32
    assert lab.device.type == "cpu"


def test_a_gguf_file_loads_with_the_same_weights(tmp_path: Path) -> None:
    lab = lk.load(str(fuzz.tiny_gguf(tmp_path / "tiny.gguf")))
    reference = fuzz.tiny_model().state_dict()
    for name, parameter in lab.model.named_parameters():
        assert torch.allclose(parameter, reference[name], atol=1e-6), name
    lab.model.save_pretrained(tmp_path / "saved")  # refused by transformers when the model still claims to be quantized


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"GGUF\3", b"GGUF\7", "says GGUF version 7"),
        (b"llama.block_count\4\0\0\0\2", b"llama.block_count\4\0\0\0\3", "announces 3 layers"),
        (b"gpt2", b"gpt3", "names 'gpt3' as its tokenizer"),
    ],
)
def test_a_gguf_file_is_checked_before_it_is_opened(old: bytes, new: bytes, told: str, tmp_path: Path) -> None:
    """Header, architecture and tokenizer, by the sentences of labkit's own checks."""
    file = fuzz.tiny_gguf(tmp_path / "tiny.gguf")
    whole = file.read_bytes()
    assert whole.count(old) == 1
    file.write_bytes(whole.replace(old, new))
    with pytest.raises(BadModelFile, match=told):
        convert.open_gguf(file, torch.float32)


def test_dtype_by_name(tiny_folder: Path) -> None:
    assert lk.load(tiny_folder, dtype="bfloat16").dtype is torch.bfloat16
    with pytest.raises(LabError, match="float5"):
        lk.load(tiny_folder, dtype="float5")


def test_loading_again_gives_the_lab_that_is_there(tiny_folder: Path) -> None:
    lab = lk.load(tiny_folder)
    assert lk.load(tiny_folder) is lab
    assert lk.load(tiny_folder, fresh=True) is not lab
    assert lk.load(tiny_folder, dtype="bfloat16") is not lab


def test_a_changed_model_is_loaded_anew(tiny_folder: Path) -> None:
    lab = lk.load(tiny_folder)
    with torch.no_grad():
        lab.model.lm_head.weight.zero_()
    again = lk.load(tiny_folder)
    assert again is not lab
    assert again.model.lm_head.weight.abs().sum() > 0


def test_close_frees_the_model_and_says_so(tiny_folder: Path) -> None:
    import weakref

    lab = lk.load(tiny_folder)
    gone = weakref.ref(lab.model)
    lab.close()
    lab.close()  # twice does no harm
    assert gone() is None
    with pytest.raises(lk.LabClosed, match=r"lk\.load\(\)"):
        lab.generate("ab")
    assert "closed" in repr(lab)
    assert lk.load(tiny_folder) is not lab


def test_where_and_how_a_model_was_opened_is_logged(
    tiny_folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", "labkit")
    lk.load(tiny_folder, fresh=True, device="cpu", dtype="float32")
    assert f"opened {tiny_folder.name} (folder) in torch.float32 on cpu" in caplog.messages
    assert "opened" not in capsys.readouterr().err


def test_an_unknown_name_gets_near_matches() -> None:
    with pytest.raises(ModelNotFound, match=r"'smolm2-135m' \(did you mean smollm2-135m.*lk\.load\(\) brings"):
        lk.load("smolm2-135m")


@pytest.mark.parametrize("name", ["", "   "])
def test_an_empty_name(name: str) -> None:
    with pytest.raises(BadInput, match="No model was named"):
        lk.load(name)


def test_a_missing_path_gets_near_files(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelNotFound, match=r"near: model\.gguf"):
        lk.load(tmp_path / "modle.gguf")


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadModelFile, match="allow_pickle=True"):
        lk.load(folder)
    with pytest.raises(BadModelFile, match="pickled"):
        lk.load(folder / "pytorch_model.bin")


def test_pickled_weights_load_when_asked_for(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(fuzz.tiny_model().state_dict(), folder / "pytorch_model.bin")
    lab = lk.load(folder, allow_pickle=True)
    assert torch.equal(lab.model.lm_head.weight, fuzz.tiny_model().lm_head.weight)


def test_remote_code_is_refused(folder: Path) -> None:
    import json

    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homegrown", "auto_map": {"AutoModelForCausalLM": "modeling.Homegrown"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(BadModelFile, match="trust_remote_code=True"):
        lk.load(folder)


def test_an_unknown_architecture(folder: Path) -> None:
    config = (folder / "config.json").read_text().replace('"model_type": "llama"', '"model_type": "nosuchthing"')
    (folder / "config.json").write_text(config)
    with pytest.raises((Unavailable, BadModelFile), match=r"architecture|model_type"):
        lk.load(folder)


def test_a_folder_without_a_tokenizer(folder: Path, tiny_folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(BadModelFile, match="pass tokenizer="):
        lk.load(folder)
    assert lk.load(folder, tokenizer=tiny_folder).generate("ab", chat=False, max_new_tokens=2).ids
    assert lk.load(folder, tokenizer=fuzz.tiny_tokenizer()).generate("ab", chat=False, max_new_tokens=2).ids
    with pytest.raises(BadInput, match="no folder"):
        lk.load(folder, tokenizer="/nowhere")


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadModelFile, match=r"model\.norm\.weight.*partly random"):
        lk.load(folder)


def test_too_little_memory_names_what_would_fit(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(p.numel() for p in fuzz.tiny_model().parameters()) * 4
    monkeypatch.setattr(hardware, "free_bytes", lambda device="cpu": needed * 2 // 3)
    with pytest.raises(
        NotEnoughMemory, match=r"needs .* KiB .*weights in float32.*What would fit: tiny-llama in bfloat16"
    ):
        lk.load(tiny_folder)
    assert lk.load(tiny_folder, dtype="bfloat16").dtype is torch.bfloat16


def test_a_large_model_is_refused_from_its_size_alone() -> None:
    with pytest.raises(NotEnoughMemory, match="smollm2-135m-instruct needs"):
        loading.place_weights("smollm2-135m-instruct", 10**13, loading.Options())


def test_what_does_not_fit_on_the_gpu_alone_is_spread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "labkit")
    monkeypatch.setattr(hardware, "pick_device", lambda device="auto": "cuda")
    monkeypatch.setattr(hardware, "pick_dtype", lambda dtype="auto", device="auto": torch.bfloat16)
    monkeypatch.setattr(hardware, "free_bytes", lambda device="cpu": {"cuda": 10**9, "cpu": 10**10}[device])
    spread = loading.place_weights("m", 10**9, loading.Options())
    assert spread.device_map == "auto"
    assert "GPU" in (spread.note or "")
    assert [record.getMessage() for record in caplog.records] == [f"m: {spread.note}."]
    assert loading.place_weights("m", 10**8, loading.Options()).device_map is None
    with pytest.raises(NotEnoughMemory):
        loading.place_weights("m", 10**9, loading.Options(device="cuda"))


def test_quantization_is_passed_on(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration object itself reaches transformers, and its bits are what the memory check counts."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    asked = BitsAndBytesConfig(load_in_4bit=True)
    seen = {}

    def from_pretrained(path: object, **keywords: object) -> object:
        seen.update(keywords)
        raise ImportError("bitsandbytes is not installed: pip install bitsandbytes")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(Unavailable, match="bitsandbytes"):
        lk.load(tiny_folder, quantization=asked)
    assert seen["quantization_config"] is asked
    assert loading._quantized_bits(asked) == 4


def test_bad_config_json(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")
    with pytest.raises(BadModelFile, match=r"config\.json"):
        lk.load(folder)


def test_a_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(BadModelFile, match="tokenizer"):
        lk.load(folder)


@pytest.mark.real_model
def test_the_default_model_is_stored_without_loss(default_lab: lk.Lab) -> None:
    """Each group of 32 weights of a 4-bit layer has at most 16 values, and they are the GGUF file's own."""
    import gguf

    from labkit.models import catalog, store

    stored = store.find(catalog.DEFAULT)
    assert stored is not None
    original = next(stored.folder.glob("*.gguf"))
    tensor = next(t for t in gguf.GGUFReader(original).tensors if t.name == "blk.3.ffn_up.weight")
    expected = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
    weight = default_lab.model.model.layers[3].mlp.up_proj.weight.detach()
    assert torch.equal(weight, expected)
    distinct = [len(group.unique()) for group in weight.reshape(-1, 32)[:200]]
    assert max(distinct) <= 16
    in_half = weight.bfloat16().float()
    assert not torch.equal(in_half, weight), "bf16 would lose the grid, which is why float32 is stored"


def test_code_beside_a_gguf_file_is_not_run_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers asks at the keyboard when trust is left open; the answer here would be yes."""
    import io
    import json

    path = fuzz.tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    auto = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto}))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with contextlib.suppress(LabError):
        lk.load(path)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_with_its_own_code_names_the_remedy(folder: Path) -> None:
    import json

    (folder / "evil.py").write_text("raise SystemExit('this must not run')")
    config = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(BadModelFile, match="trust_remote_code=True"):
        lk.load(folder)


CHANGES = {
    "converted": lambda m: m.half(),
    "written through data": lambda m: [p.data.zero_() for p in m.parameters()],
    "replaced": lambda m: setattr(m.lm_head, "weight", torch.nn.Parameter(torch.zeros_like(m.lm_head.weight))),
    "hooked": lambda m: m.lm_head.register_forward_hook(lambda *a: None),
    "set to train": lambda m: m.train(),
    "extended": lambda m: m.add_module("more", torch.nn.Linear(1, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_kind_of_change_is_noticed(tiny_folder: Path, change: str) -> None:
    lab = lk.load(tiny_folder)
    assert lk.load(tiny_folder) is lab
    CHANGES[change](lab.model)
    again = lk.load(tiny_folder)
    assert again is not lab
    assert again.dtype is torch.float32
    again.close()


def test_other_ways_of_writing_a_name_are_the_same_model(
    tiny_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lk.load(tiny_folder)
    monkeypatch.chdir(tiny_folder.parent)
    assert lk.load(f"./{tiny_folder.name}") is lab
    monkeypatch.chdir(folder.parent)
    other = lk.load(f"./{folder.name}")
    assert other is not lab
    tokenizer = fuzz.tiny_tokenizer()
    assert lk.load(tiny_folder, tokenizer=tokenizer) is not lab
    assert lk.load(tiny_folder, tokenizer=tokenizer).tokenizer is tokenizer
    for mine in (lab, other):
        mine.close()


def test_two_threads_load_one_copy(tiny_folder: Path) -> None:
    import threading

    found: list[lk.Lab] = []
    threads = [threading.Thread(target=lambda: found.append(lk.load(tiny_folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(lab) for lab in found}) == 1


@pytest.mark.parametrize("name", ["foo/bar baz", "owner/na--me"])
def test_a_name_the_hub_can_not_have(name: str) -> None:
    with pytest.raises(ModelNotFound, match="can't be a name on the hub"):
        lk.load(name)


def test_what_is_no_name_and_no_configuration(tiny_folder: Path) -> None:
    with pytest.raises(BadInput, match="int"):
        lk.load(5)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="BitsAndBytesConfig"):
        lk.load(tiny_folder, quantization="4bit")
    with pytest.raises(
        ModelNotFound,
        match=r"Nothing is found at C:/models/none; give the path of a model's folder or \.gguf file, or a name: lk\.load",
    ):
        lk.load("C:/models/none")
