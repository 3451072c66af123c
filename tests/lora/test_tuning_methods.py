"""The methods of labkit.lora.finetune: each learns, and its adapter on the lab is the model that was trained."""

from __future__ import annotations

import importlib.util
import threading
from typing import Any

import families
import fuzz
import pytest
import torch

import labkit as lk
from labkit.lora import methods
from labkit.lora.finetuning import finetune
from labkit.lora.forgetting import TextRows, row_losses
from labkit.lora.runs import Run
from labkit.lora.trainers import OwnDraws
from labkit.quantization.layers import PackedWeight

DATA = [{"prompt": f"the cat {w}", "completion": f"{w} ran"} for w in ("sat", "tree", "dog", "mat", "tired", "other")]
HELD_OUT = [{"prompt": "the mat", "completion": "the mat ran"}]
QUICK: dict[str, Any] = {"targets": "all-linear", "rank": 4, "learning_rate": 1e-2, "batch": 4, "prompt": False}
IDS = list(range(40, 60))


def tuned(method: str, lab: lk.Lab | None = None, **options: Any) -> Run[lk.Lab]:
    lab = lab or lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    given: dict[str, Any] = {
        **QUICK,
        **{"steps": 6, "general": ["where was the dog"], "held_out": HELD_OUT},
        **options,
    }
    return finetune(lab, given.pop("data", DATA), method=method, **given).wait()


def logits_in_training(run: Run[lk.Lab]) -> torch.Tensor:
    return run._tuning.lab.trace(IDS, keep="logits").logits  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "pissa"])
def test_an_adapter_on_the_lab_is_the_model_that_was_trained(method: str) -> None:
    run = tuned(method)
    lab, steps = run.original, run.steps
    assert steps[0].kl == pytest.approx(0, abs=1e-6)  # the base of PiSSA's twin is rounded
    assert steps[0].forgetting == pytest.approx(0, abs=1e-5)
    assert steps[-1].loss < steps[1].loss
    before = lab.trace(IDS, keep="logits").logits
    with run.adapter.on():
        found = lab.trace(IDS, keep="logits").logits
    torch.testing.assert_close(found, logits_in_training(run), atol=1e-5, rtol=0)
    assert not torch.allclose(found, before, atol=1e-3)
    assert torch.equal(lab.trace(IDS, keep="logits").logits, before)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_qlora_trains_beside_packed_weights() -> None:
    run = tuned("qlora")
    packed = [
        m
        for m in run._tuning.model.modules()
        if type(m).__module__ == "bitsandbytes.nn.modules" and hasattr(m, "weight")
    ]
    assert len(packed) == 14
    assert all(m.weight.quant_state.nested for m in packed)  # type: ignore[union-attr]
    trained = [weight for weight in run._tuning.model.parameters() if weight.requires_grad]
    assert all(weight.dtype == torch.float32 for weight in trained)
    assert (run.steps[0].kl, run.steps[0].forgetting) == (0.0, 0.0)
    assert run.steps[-1].loss < run.steps[1].loss
    small = lk.quantization.quantize(run.original, "nf4", backend="bitsandbytes", progress=False)
    before = small.trace(IDS, keep="logits").logits
    with run.adapter.for_lab(small).on():
        found = small.trace(IDS, keep="logits").logits
    torch.testing.assert_close(found, logits_in_training(run), atol=1e-5, rtol=0)
    assert not torch.allclose(found, before, atol=1e-3)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_qlora_of_bfloat16_has_a_gradient() -> None:
    """On some processors bitsandbytes packs such weights again, at the first measurement, and no gradient gets through."""
    given: dict[str, Any] = {"steps": 2, "general": False, "dropout": 0.0}
    lab = lk.Lab(fuzz.tiny_model().eval().bfloat16(), fuzz.tiny_tokenizer(), name="tiny")
    run = tuned("qlora", lab, **given)
    assert len([m for m in run._tuning.model.modules() if isinstance(m, PackedWeight)]) == 14
    exact = tuned("qlora", **given)
    norms = [step.gradient_norm for step in run.steps[1:]]
    assert norms == pytest.approx([step.gradient_norm for step in exact.steps[1:]], rel=0.1)
    small = lk.quantization.quantize(lab, "nf4", backend="bitsandbytes", progress=False)
    for module in small.model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = True
    with pytest.raises(lk.Unavailable, match="no gradient for the form"):
        tuned("qlora", small, **given)


def test_qlora_does_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else there(name, *a)
    )
    run = tuned("qlora", general=False)
    monkeypatch.undo()
    packed = [m for m in run._tuning.plan.measuring.base.modules() if isinstance(m, PackedWeight)]
    assert len(packed) == 14
    assert all(each.format.name.startswith("nf4") for each in packed)
    assert run.steps[-1].loss < run.steps[1].loss


def test_a_quantized_lab_is_tuned_as_it_is() -> None:
    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    small = lk.quantization.quantize(lab, "int8", progress=False)
    run = tuned("qlora", small)
    assert run.steps[-1].loss < run.steps[1].loss
    with run.adapter.on():
        found = small.trace(IDS, keep="logits").logits
    torch.testing.assert_close(found, logits_in_training(run), atol=1e-5, rtol=0)
    for method in ("full", "pissa"):
        with pytest.raises(lk.Unavailable, match="quantized"):
            tuned(method, small)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pissa_in_16_bits_is_refused_before_it_begins(dtype: torch.dtype) -> None:
    lab = lk.Lab(fuzz.tiny_model().eval().to(dtype), fuzz.tiny_tokenizer(), name="tiny")
    with pytest.raises(lk.Unavailable, match="dtype='float32'"):
        tuned("pissa", lab)


def test_what_has_no_gradient_is_refused() -> None:
    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    small = lk.quantization.quantize(lab, "int8", backend="torch", progress=False)
    with pytest.raises(lk.Unavailable, match="no gradient"):
        tuned("lora", small)


def test_full_tuning_gives_a_lab_of_its_own() -> None:
    run = tuned("full", learning_rate=1e-3, steps=8)
    assert run.steps[-1].loss < run.steps[1].loss - 0.1
    assert (run.steps[0].kl, run.steps[0].forgetting) == (0.0, 0.0)
    with pytest.raises(lk.Unavailable, match=r"run\.lab"):
        _ = run.adapter
    mine = {weight.data_ptr() for weight in run.original.model.parameters()}
    assert not mine & {weight.data_ptr() for weight in run.lab.model.parameters()}
    assert run.lab.generate("the cat", max_new_tokens=2).ids
    assert all(weight.grad is None for weight in run.lab.model.parameters())


def test_schedule_free_is_measured_and_taken_where_it_is_to_be_used() -> None:
    pytest.importorskip("schedulefree")
    run = tuned("lora", schedule="schedule_free")
    lab = run.original
    assert run.steps[-1].loss < run.steps[1].loss
    with run.adapter.on():
        found = lab.trace(IDS, keep="logits").logits
    torch.testing.assert_close(found, logits_in_training(run), atol=1e-5, rtol=0)
    again = run.adapter
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in run.adapter.tensors.items())
    torch.testing.assert_close(found, logits_in_training(run), atol=1e-5, rtol=0)
    rates = {step.learning_rate for step in run.steps[1:]}
    assert rates == {1e-2}


@pytest.mark.parametrize(("schedule", "last"), [("linear", 1e-2 / 6), ("constant", 1e-2), ("cosine", 6.7e-4)])
def test_schedules(schedule: str, last: float) -> None:
    run = tuned("lora", schedule=schedule, general=False, held_out=None)
    assert run.steps[-1].learning_rate == pytest.approx(last, rel=0.01)


def test_sophia_tunes_too_and_has_no_script() -> None:
    run = tuned("lora", optimizer="sophia", learning_rate=3e-3, steps=12, dropout=0.0)
    assert run.steps[-1].held_out < run.steps[0].held_out - 0.1
    with pytest.raises(lk.Unavailable, match="TRL has no Sophia"):
        run.script("someone/model")
    adamw, sophia = (lk.lora.cost(run.original, rank=4, optimizer=name).table for name in ("adamw", "sophia"))
    kept = [table.set_index("part").loc["optimizer", "bytes"] for table in (adamw, sophia)]
    assert 0 < kept[0] - kept[1] < 1000  # AdamW keeps its count of steps with each matrix


def test_warmup_begins_with_nothing() -> None:
    run = tuned("lora", schedule="constant", warmup=2, general=False, held_out=None)
    assert [step.learning_rate for step in run.steps[1:4]] == pytest.approx([0, 5e-3, 1e-2])


def test_plain_text_is_continued_pre_training() -> None:
    run = tuned("lora", data=["the dog ran up the tree", "the cat was tired"], held_out=["the other dog"], prompt="the")
    assert run.steps[-1].loss < run.steps[1].loss
    assert len(run.samples) == 7


def lab_of(family: str) -> lk.Lab:
    tokenizer = fuzz.tiny_tokenizer()
    dropouts = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop", "dropout"), 0.0)
    own = (families.FAMILIES | families.UNUSUAL)[family]
    model = families.build(families.Family(own.model_type, own.fields | {"vocab_size": len(tokenizer)} | dropouts))
    return lk.Lab(model, tokenizer, name=f"tiny {family}")


@pytest.mark.parametrize("family", ["llama3", "gpt2", "gpt_neox"])
def test_packed_rows_give_the_losses_of_samples_by_themselves(family: str) -> None:
    lab = lab_of(family)
    given: dict[str, Any] = {"steps": 3, "dropout": 0, "general": False, "held_out": None, "data": DATA[:5]}
    # five samples of unlike lengths: packed all in one row, else all in one batch
    packed = tuned("lora", lab, packing=True, batch=1, **given)
    assert len(packed._tuning.plan.data.train.rows) == 1
    apart = tuned("lora", lab, batch=5, **given)
    losses = [[step.loss for step in run.steps[1:]] for run in (packed, apart)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    assert losses[0][-1] < losses[0][0] - 1e-3


def test_all_linear_leaves_routers_gates_and_fused_experts_out() -> None:
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    for family, kept_out, others in (
        ("phimoe", "router", set()),
        ("qwen2_moe", "shared_expert_gate", {"gate_proj", "up_proj", "down_proj"}),
        ("qwen3_moe_sparse_step", "gate_proj", set()),  # of the dense layers, which peft takes for the experts
        ("mamba", "out_proj", None),
        ("gemma3n", "correction_coefs", None),
    ):
        model = lab_of(family).model
        assert any(name.endswith(kept_out) for name, _ in model.named_modules())
        maps = methods.linear_maps(model)
        refused = methods.refused_by_peft(model, maps)
        found = set(methods.found("all-linear", 4, maps, refused))
        assert kept_out not in found
        assert found == attention | others if others is not None else found
        if family == "qwen3_moe_sparse_step":
            with pytest.raises(lk.BadInput, match=r"mlp\.gate_proj, .*the name for that of fused experts"):
                methods.found("mlp.gate_proj", 4, maps, refused)
        if family == "mamba":
            with pytest.raises(lk.BadInput, match=r"out_proj, .*multiplies with its weight directly"):
                methods.found("out_proj", 4, maps, refused)
            with pytest.raises(lk.BadInput, match="width of every matrix"):
                methods.found("all-linear", 1000, maps, refused)
    maps = methods.linear_maps(lab_of("qwen2_moe").model)
    with pytest.raises(lk.BadInput, match=r"width of shared_expert_gate \(1\)"):
        methods.found("shared_expert_gate", 4, maps)


def test_a_matrix_that_only_some_layers_have_is_told() -> None:
    lab = lab_of("gemma4")  # whose layer of full attention takes its keys for values
    given: dict[str, Any] = {"steps": 1, "general": False}
    run = tuned("lora", lab, targets=("q_proj", "v_proj"), **given)
    assert run.notes == ("Not every layer has what is tuned: there is v_proj in 1 of 2 layers.",)
    assert tuned("lora", lab, targets="q_proj", **given).notes == ()
    assert tuned("lora", lab, **given).notes == ()
    (note,) = tuned("lora", lab_of("qwen2_moe"), **given).notes
    assert "all-linear leaves out shared_expert_gate" in note


def test_packing_that_a_model_does_not_keep_apart_is_refused_before_the_run() -> None:
    lab = lab_of("opt")
    with pytest.raises(lk.Unavailable, match="leave packing out"):
        tuned("lora", lab, packing=True, batch=1)
    assert lk.lora.current_run() is None


def test_autocast_trains_too() -> None:
    run = tuned("lora", compute="bfloat16")
    plain = tuned("lora")
    assert run.steps[1].loss != plain.steps[1].loss
    assert run.steps[1].loss == pytest.approx(plain.steps[1].loss, abs=0.05)


def test_padding_is_a_token_that_the_model_has() -> None:
    lab = lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")
    data = [{"prompt": "the cat", "completion": "sat"}, {"prompt": "the other dog", "completion": "ran up the tree"}]
    with_own = tuned("lora", data=data, batch=2)
    lab.tokenizer.add_tokens(["<|pad|>"])
    lab.tokenizer.pad_token = "<|pad|>"  # beyond the embedding
    assert lab.tokenizer.pad_token_id == lab.model.get_input_embeddings().num_embeddings
    beyond = tuned("lora", lab, data=data, batch=2)
    assert [s.loss for s in beyond.steps[1:]] == pytest.approx([s.loss for s in with_own.steps[1:]], abs=1e-5)
    assert lab.tokenizer.pad_token == "<|pad|>"
    lab.tokenizer.eos_token = None
    with pytest.raises(lk.Unavailable, match="pad_token"):
        tuned("lora", lab, data=["the cat sat"], held_out=None)


def test_a_model_with_dropout_in_its_attention_keeps_the_random_state() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = fuzz.tiny_tokenizer()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_positions=128, n_embd=16, n_layer=2, n_head=2, eos_token_id=2, bos_token_id=1
        )
    ).eval()

    def run() -> Run[lk.Lab]:
        lab = lk.Lab(model, tokenizer, name="tiny-gpt2")
        return tuned("lora", lab, targets=("c_attn", "c_fc"), general=False, held_out=None)

    state = torch.get_rng_state()
    one = run()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    other = run()
    assert [step.loss for step in one.steps[1:]] == [step.loss for step in other.steps[1:]]


def test_dropout_in_attention_is_the_runs_own_whatever_is_drawn_meanwhile() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 2, "eos_token_id": 2, "bos_token_id": 1}
    tokenizer = fuzz.tiny_tokenizer()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).eval()
    assert model.config._attn_implementation == "sdpa"

    def losses(draw: bool) -> list[float]:
        lab = lk.Lab(model, tokenizer, name="tiny-gpt2")
        options: dict[str, Any] = {"targets": ("c_attn", "c_fc"), "rank": 4, "batch": 4, "steps": 3}
        torch.manual_seed(7)
        state = torch.get_rng_state()
        run = finetune(lab, DATA, **options, prompt=False, general=False)
        while draw and not run.done:
            torch.rand(100)
        run.wait()
        if not draw:
            assert torch.equal(torch.get_rng_state(), state)
        return [step.loss for step in run.steps[1:]]

    assert losses(draw=False) == losses(draw=True)


def test_own_draws_are_those_of_torch() -> None:
    torch.manual_seed(3)
    q = torch.randn(1, 2, 5, 4)
    attention = torch.nn.functional.scaled_dot_product_attention
    torch.manual_seed(3)
    theirs = attention(q, q, q, dropout_p=0.5)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    with OwnDraws(torch.Generator().manual_seed(3)):
        ours = attention(q, q, q, dropout_p=0.5)
    assert torch.equal(ours, theirs)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_loss_of_a_mixture_of_experts_is_of_its_tokens_alone() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    tokenizer = fuzz.tiny_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_local_experts": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
    model = MixtralForCausalLM(
        MixtralConfig(vocab_size=len(tokenizer), eos_token_id=2, bos_token_id=1, **sizes, **heads)
    )
    lab = lk.Lab(model.eval(), tokenizer, name="tiny-mixtral")
    run = tuned("lora", lab, targets=("q_proj",), steps=1, batch=len(DATA), dropout=0.0, held_out=None)
    rows = lk.lora.mask(lab, DATA).samples
    nats, tokens = row_losses(TextRows(lab.model, [row.ids for row in rows], [row.learns for row in rows]), lab.model)
    assert run.steps[1].loss == pytest.approx(nats.sum() / tokens.sum(), abs=1e-5)


def test_accelerates_own_states_are_the_users_again() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        mine = Accelerator(mixed_precision="bf16", cpu=True)
        tuned("lora", steps=1)
        assert mine.mixed_precision == "bf16"
        assert AcceleratorState().mixed_precision == "bf16"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    tuned("lora", steps=1)
    assert not AcceleratorState._shared_state
    assert not PartialState._shared_state


def test_an_accelerator_made_while_a_run_trains_is_the_users_own() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    kinds: tuple[Any, ...] = (AcceleratorState, PartialState, GradientState)
    for kind in kinds:
        kind._shared_state.clear()
    plain = [step.loss for step in tuned("lora", steps=4).steps[1:]]
    made: list[Any] = []
    told, answered = threading.Event(), threading.Event()

    def hold(step: Any) -> None:
        if step.step == 1:
            told.set()
            answered.wait(30)

    try:
        run = finetune(
            lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny"),
            DATA,
            **{**QUICK, "steps": 4, "held_out": HELD_OUT, "general": ["where was the dog"]},
        )
        run.subscribe(hold)
        assert told.wait(30) or run.done
        made.append(Accelerator(mixed_precision="bf16", cpu=True, gradient_accumulation_steps=3))
        inside = [AcceleratorState().mixed_precision, GradientState().num_steps]
        answered.set()
        run.wait()
        assert not run.settings.compute.startswith("bf")
        assert inside == ["bf16", 3]
        assert made[0].mixed_precision == AcceleratorState().mixed_precision == "bf16"
        assert GradientState().num_steps == 3
        assert [step.loss for step in run.steps[1:]] == plain
        assert made[0].state.__dict__ is AcceleratorState._shared_state
    finally:
        answered.set()
        for kind in kinds:
            kind._shared_state.clear()
