"""A run written out: the plain script runs by itself and gives the same losses, on the same tokens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import labkit as lk
from labkit.lora import scripts
from labkit.lora.finetuning import finetune
from labkit.lora.masks import mask
from labkit.lora.process_state import kept_process_state
from labkit.lora.runs import Run

DATA = [{"prompt": f"the cat {w}", "completion": f"{w} ran"} for w in ("sat", "tree", "dog", "mat", "tired", "other")]
LOSSES = "\nprint('LOSSES', [e['loss'] for e in trainer.state.log_history if 'loss' in e])\n"


def tuned(lab: lk.Lab, **options: Any) -> Run[lk.Lab]:
    given: dict[str, Any] = {
        **{"targets": "all-linear", "rank": 4, "learning_rate": 1e-2, "batch": 4, "prompt": False, "steps": 5},
        **{"general": False, "dropout": 0.2, "held_out": [{"prompt": "the mat", "completion": "the mat ran"}]},
        **options,
    }
    return finetune(lab, given.pop("data", DATA), **given).wait()


def test_the_script_runs_and_gives_the_same_losses(tmp_path: Path, tiny_folder: Path) -> None:
    run = tuned(lk.load(tiny_folder, fresh=True), neftune=5.0)
    folder = run.export(tmp_path, model=str(tiny_folder))
    assert sorted(path.name for path in folder.iterdir()) == ["sft.yaml", "test.jsonl", "train.jsonl", "train.py"]
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text("utf-8").splitlines()]
    assert rows[0]["prompt"] == [{"role": "user", "content": "the cat sat"}]
    assert run.script(str(tiny_folder)) == (folder / "train.py").read_text("utf-8")
    with (folder / "train.py").open("a", encoding="utf-8") as script:
        script.write(LOSSES)
    done = subprocess.run(
        [sys.executable, folder / "train.py"], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOSSES")]
    assert json.loads(line.removeprefix("LOSSES")) == pytest.approx([step.loss for step in run.steps[1:]], abs=1e-6)
    adapter = lk.lora.load(run.original, folder / "out")
    ours = run.adapter.tensors
    assert all(adapter.tensors[name].allclose(ours[name], atol=1e-5) for name in ours)


def test_trls_own_command_trains_the_same_adapter(tmp_path: Path, tiny_folder: Path) -> None:
    """`trl sft --config sft.yaml`, in a process of its own and without a network."""
    run = tuned(lk.load(tiny_folder, fresh=True), neftune=5.0, steps=4)
    folder = run.export(tmp_path / "run", model=str(tiny_folder))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "datasets"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "trl.cli.main", "sft", "--config", "sft.yaml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | offline,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [float(loss) for loss in re.findall(r"'loss': '?([0-9.]+)", done.stdout)]
    assert losses == pytest.approx([step.loss for step in run.steps[1:]], rel=1e-3), "they are printed to four digits"
    adapter = lk.lora.load(run.original, folder / "out")
    ours = run.adapter.tensors
    assert adapter.tensors.keys() == ours.keys()
    assert all(adapter.tensors[name].allclose(ours[name], atol=1e-5) for name in ours)


@pytest.mark.parametrize(
    ("method", "dtype"),
    [(method, "float32") for method in ("rslora", "dora", "pissa", "qlora", "full")] + [("lora", "bfloat16")],
)
def test_the_script_of_every_method_gives_the_same_losses(
    method: str, dtype: str, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    lab = lk.load(tiny_folder, fresh=True, dtype=dtype)
    run = tuned(lab, method=method, steps=3, held_out=None, learning_rate=1e-3 if method == "full" else 1e-2)
    folder = run.export(tmp_path, model=str(tiny_folder))
    from trl import SFTTrainer

    monkeypatch.setattr(SFTTrainer, "_send_telemetry", lambda self: None)
    space: dict[str, Any] = {"__file__": str(folder / "train.py")}
    with kept_process_state():
        exec(compile((folder / "train.py").read_text("utf-8"), "train.py", "exec"), space)
    losses = [row["loss"] for row in space["trainer"].state.log_history if "loss" in row]
    ours = [step.loss for step in run.steps[1:]]
    assert losses[0] == pytest.approx(ours[0], abs=1e-6)
    assert losses == pytest.approx(ours, abs=2e-3 if method == "qlora" else 1e-6)  # TRL trains that in bfloat16
    assert space["model"].dtype == lab.dtype
    quantized = getattr(space["model"], "is_loaded_in_4bit", False)
    assert quantized == (method == "qlora")


def test_what_a_plain_script_can_t_load_is_refused(tiny_lab: lk.Lab) -> None:
    small = lk.quantization.quantize(tiny_lab, "int4", progress=False)
    with pytest.raises(lk.Unavailable, match=r"is quantized here.*method='qlora'"):
        tuned(small, steps=1).script("someone/model")


def test_an_alpha_that_trl_would_round_is_kept(tmp_path: Path, tiny_lab: lk.Lab) -> None:
    run = tuned(tiny_lab, steps=1, alpha=2.5)
    folder = run.export(tmp_path, model="someone/model")
    assert "lora_alpha=2.5" in (folder / "train.py").read_text("utf-8")
    assert not (folder / "sft.yaml").exists()
    with pytest.raises(lk.Unavailable, match=r"alpha, and this run has 2\.5; run train\.py"):
        run._written("someone/model").yaml()


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "pissa", "qlora", "full"])
def test_every_method_makes_a_script_and_yaml_that_can_be_read(method: str, tiny_lab: lk.Lab) -> None:
    run = tuned(tiny_lab, steps=1, method=method) if method in ("lora", "full") else None
    settings = (run or tuned(tiny_lab, steps=1)).settings
    settings = type(settings)(**{**vars(settings), "method": method})
    written = scripts.Written(
        settings, "someone/model", "float32", "sdpa", "cpu", {"packing": False, "max_length": None}
    )
    compile(written.script(), "train.py", "exec")
    assert ("LoraConfig" in written.script()) == (method != "full")
    if method == "pissa":
        with pytest.raises(lk.Unavailable, match=r"train\.py"):
            written.yaml()
        return
    fields = yaml.safe_load(written.yaml())
    assert fields["max_steps"] == 1
    assert fields.get("lora_r") == (None if method == "full" else 4)
    assert fields.get("use_dora", False) == (method == "dora")
    assert fields.get("load_in_4bit", False) == (method == "qlora")
    from transformers import HfArgumentParser
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig

    fields |= {"output_dir": "unused"}
    kinds = [ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig]
    HfArgumentParser(kinds).parse_dict(fields)  # what `trl sft` reads it with


def test_what_to_load_has_to_be_known(tiny_lab: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match="model='owner/name'"):
        tuned(tiny_lab, steps=1).script()


def test_data_that_trl_would_read_otherwise_is_written_as_tokens(tiny_lab: lk.Lab) -> None:
    talk = [
        [{"role": "user", "content": "the cat?"}, {"role": "assistant", "content": "sat"}],
        [{"role": "user", "content": "the dog?"}, {"role": "assistant", "content": "ran"}],
    ]
    masked = mask(tiny_lab, talk)
    assert scripts.rows_of(masked, tiny_lab.tokenizer, None) == masked.labelled()
    texts = mask(tiny_lab, ["the cat sat", "the dog ran"])
    assert scripts.rows_of(texts, tiny_lab.tokenizer, None) == [{"text": "the cat sat"}, {"text": "the dog ran"}]
    tiny_lab.tokenizer.chat_template = None
    pairs = mask(tiny_lab, [{"prompt": "the cat", "completion": " sat"}])
    assert set(scripts.rows_of(pairs, tiny_lab.tokenizer, None)[0]) <= {"prompt", "completion", "input_ids", "labels"}
