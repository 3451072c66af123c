"""A run as others can repeat it: a plain TRL script, TRL's YAML, and the data as JSONL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import Unavailable
from labkit.lora.methods import METHODS
from labkit.lora.settings import Settings
from labkit.trace.input import wants_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from labkit.lora.masks import Mask, Masked

TRAIN, HELD_OUT, SCRIPT, YAML = "train.jsonl", "test.jsonl", "train.py", "sft.yaml"
Value = str | int | float | bool | None
Row = Mapping[str, object]


@dataclass(frozen=True)
class Written:
    """What a script is made of. model: a hub name or a folder; dtype: its weights', such as "float32"; attention: its
    implementation; device: "cpu" or another.
    """

    settings: Settings
    model: str
    dtype: str
    attention: str | None
    device: str
    data: Mapping[str, object]  # fields of SFTConfig that the data decides

    @property
    def options(self) -> dict[str, Value]:
        found: dict[str, Value] = self.settings.trainer_options(self.device)
        found |= {name: value for name, value in self.data.items() if isinstance(value, str | int | float | None)}
        if self.settings.neftune:
            found["neftune_noise_alpha"] = self.settings.neftune
        if self.settings.compute == "bfloat16":
            found["bf16"] = True
        return found

    def script(self) -> str:
        """A Python file that trains the same adapter (or model) with TRL alone."""
        it = self.settings
        method = METHODS[it.method]
        imports = ["from datasets import load_dataset"]
        names = ["AutoModelForCausalLM", "AutoTokenizer"]
        load = ["MODEL", f"dtype={self.dtype!r}"]
        if self.attention:
            load.append(f"attn_implementation={self.attention!r}")
        if method.quantized:
            names.append("BitsAndBytesConfig")
            load.append("quantization_config=packed")
        if not method.is_full:
            imports.append("from peft import LoraConfig")
        imports += [f"from transformers import {', '.join(names)}", "from trl import SFTConfig, SFTTrainer"]
        lines = [
            f'"""{method.title}, {it.steps} steps: run it beside {TRAIN} (pip install trl peft)."""',
            "",
            "from pathlib import Path",
            "",
            *imports,
            "",
            f"MODEL = {self.model!r}",
            "HERE = Path(__file__).resolve().parent",
            "",
        ]
        if method.quantized:
            lines += [
                "packed = BitsAndBytesConfig(",
                '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
                f"    bnb_4bit_compute_dtype={self.dtype!r},",
                ")",
            ]
        lines += [
            f"model = AutoModelForCausalLM.from_pretrained({', '.join(load)})",
            "tokenizer = AutoTokenizer.from_pretrained(MODEL)",
            f'data = load_dataset("json", data_files=str(HERE / {TRAIN!r}), split="train")',
            "config = SFTConfig(",
            '    output_dir=str(HERE / "out"),',
            *(f"    {name}={value!r}," for name, value in self.options.items()),
            ")",
        ]
        if not method.is_full:
            assert method.fields is not None
            lines += [
                "adapter = LoraConfig(",
                f"    r={it.rank},",
                f"    lora_alpha={it.alpha!r},",
                f"    target_modules={list(it.targets)!r},",
                f"    lora_dropout={it.dropout!r},",
                '    task_type="CAUSAL_LM",',
                *(f"    {name}={value!r}," for name, value in method.fields.items()),
                ")",
            ]
        adapter = "" if method.is_full else ", peft_config=adapter"
        lines += [
            "trainer = SFTTrainer(",
            f"    model=model, args=config, train_dataset=data, processing_class=tokenizer{adapter}",
            ")",
            "trainer.train()",
            'trainer.save_model(str(HERE / "out"))',
            "",
        ]
        return "\n".join(lines)

    @property
    def no_yaml(self) -> str | None:
        """Why `trl sft` can't be told of this run; None where it can."""
        if METHODS[self.settings.method].residual:
            return "TRL's command line has no PiSSA"
        if not METHODS[self.settings.method].is_full and self.settings.alpha % 1:
            return f"TRL's command line takes whole numbers for alpha, and this run has {self.settings.alpha:g}"
        return None

    def yaml(self) -> str:
        """What `trl sft --config sft.yaml` takes. Raises Unavailable for what that command can't be told: see `no_yaml`."""
        import yaml

        it = self.settings
        method = METHODS[it.method]
        if self.no_yaml:
            raise Unavailable(f"{self.no_yaml}; run {SCRIPT}.")
        fields: dict[str, object] = {
            "model_name_or_path": self.model,
            "dtype": self.dtype,
            "datasets": [{"path": "json", "data_files": TRAIN}],  # as dataset_name, "." can't be loaded
            "output_dir": "out",
            **self.options,
        }
        if self.attention:
            fields["attn_implementation"] = self.attention
        if not method.is_full:
            fields |= {
                "use_peft": True,
                "lora_r": it.rank,
                "lora_alpha": int(it.alpha),
                "lora_dropout": it.dropout,
                "lora_target_modules": list(it.targets),
                **(method.fields or {}),
            }
        if method.quantized:
            fields |= {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}
        head = f"# {method.title}: trl sft --config {YAML}, in this folder\n"
        body: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
        return head + body


def rows_of(mask: Mask, tokenizer: PreTrainedTokenizerBase, template: Mapping[str, object] | None) -> list[Row]:
    """Samples as rows of a dataset: readable where TRL makes the same ids and labels of them, else already tokenized."""
    readable = [_readable(each, tokenizer) for each in mask.samples] if not template else []
    if readable and all(row is not None for row in readable):
        return [row for row in readable if row is not None]
    return list(mask.labelled())


def _readable(masked: Masked, tokenizer: PreTrainedTokenizerBase) -> Row | None:
    """A sample in TRL's words; None where its ids or labels would be others than ours."""
    sample = masked.sample
    end = str(tokenizer.eos_token or "")
    if sample.kind == "text":
        text = sample.text
        ids = _ids(tokenizer, text if text.endswith(end) else text + end)
        return {"text": text} if _same(masked, ids, 1) else None
    if sample.kind != "prompt":
        return None
    if wants_template(tokenizer, sample.prompt, None):
        asked = [{"role": "user", "content": sample.prompt}]
        answer = [{"role": "assistant", "content": sample.completion}]
        before = _templated(tokenizer, asked, invite=True)
        whole = _templated(tokenizer, [*asked, *answer], invite=False)
        return {"prompt": asked, "completion": answer} if _same(masked, whole, len(before)) else None
    completion = sample.completion
    whole = _ids(tokenizer, sample.prompt + (completion if completion.endswith(end) else completion + end))
    row = {"prompt": sample.prompt, "completion": completion}
    return row if _same(masked, whole, len(_ids(tokenizer, sample.prompt))) else None


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    found: list[int] = tokenizer(text)["input_ids"]
    return found


def _templated(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], *, invite: bool) -> list[int]:
    found = tokenizer.apply_chat_template(
        [dict(message) for message in messages], tokenize=True, add_generation_prompt=invite, return_dict=True
    )
    ids: list[int] = found["input_ids"]  # type: ignore[index, call-overload, assignment]
    return ids


def _same(masked: Masked, ids: Sequence[int], begin: int) -> bool:
    return list(masked.ids) == list(ids) and list(masked.learns) == [i >= begin for i in range(len(ids))]


def write(
    folder: Path,
    written: Written,
    tokenizer: PreTrainedTokenizerBase,
    train: Mask,
    held_out: Mask | None,
    template: Mapping[str, object] | None,
) -> None:
    """Put script, YAML and data into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in ((TRAIN, train), (HELD_OUT, held_out)):
        if mask is not None:
            lines = [json.dumps(row, ensure_ascii=False) for row in rows_of(mask, tokenizer, template)]
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / SCRIPT).write_text(written.script(), encoding="utf-8")
    if written.no_yaml is None:
        (folder / YAML).write_text(written.yaml(), encoding="utf-8")
