"""Models below peft's adapters: running leaves their settings alone, and virtual tokens are never taken for a text's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import FAMILIES, UNUSUAL, Tokens, build

import labkit as lk

peft = pytest.importorskip("peft")

TEXT = [5, 17, 33, 8, 91, 42, 17, 33, 64, 23, 12]
SHORT = [3, 9, 27]
VIRTUAL = 3
INJECTED: dict[str, Callable[[], Any]] = {
    "lora": lambda: peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        init_ia3_weights=False,
        task_type="CAUSAL_LM",
    ),
    "dora": lambda: peft.LoraConfig(
        r=2, target_modules=["v_proj"], use_dora=True, init_lora_weights=False, task_type="CAUSAL_LM"
    ),
}
BEFORE_A_TEXT: dict[str, Callable[[], Any]] = {
    "prompt tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
    "p-tuning": lambda: peft.PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL, encoder_hidden_size=16
    ),
    "prefix tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
}


def words(ids: list[int]) -> str:
    return " ".join(f"t{i}" for i in ids)


def adapted(name: str, family: str = "llama3") -> Any:
    torch.manual_seed(1)
    model = peft.get_peft_model(build((FAMILIES | UNUSUAL)[family]), (INJECTED | BEFORE_A_TEXT)[name]())
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if "prompt_encoder" in weight_name:
                weight.normal_(0, 0.3)
    return model.eval()


@pytest.fixture(params=BEFORE_A_TEXT)
def tuned(request: pytest.FixtureRequest) -> Any:
    return adapted(request.param)


@pytest.fixture(params=INJECTED)
def injected(request: pytest.FixtureRequest) -> Any:
    return adapted(request.param)


def stop(_generation: Any) -> None:
    raise RuntimeError


@pytest.mark.parametrize("name", [*INJECTED, *BEFORE_A_TEXT])
@pytest.mark.parametrize("how", ["generate", "sampled", "stream", "left half-way", "error", "interrupt"])
def test_the_settings_below_an_adapter_are_what_they_were(name: str, how: str) -> None:
    model = adapted(name)
    base = model.get_base_model()
    base.generation_config.eos_token_id, base.generation_config.max_length = [2, 7], 77
    before = [(m, {k: v for k, v in vars(m).items() if "generation" in k}) for m in model.modules()]
    settings = copy.deepcopy(base.generation_config)
    lab = lk.Lab(model, Tokens(), name=name)

    def interrupt(_generation: Any) -> None:
        raise KeyboardInterrupt

    if how == "generate":
        lab.generate([words(TEXT), words(SHORT)], max_new_tokens=2)
    elif how == "sampled":
        lab.generate(words(TEXT), max_new_tokens=2, temperature=1.0, top_k=5)
    elif how == "stream":
        list(lab.stream(words(TEXT), max_new_tokens=2))
    elif how == "left half-way":
        stream = lab.stream(words(TEXT), max_new_tokens=20)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(RuntimeError if how == "error" else KeyboardInterrupt):
            lab.generate(words(TEXT), max_new_tokens=3, on_token=stop if how == "error" else interrupt)
    for module, own in before:
        now = {k: v for k, v in vars(module).items() if "generation" in k}
        assert now.keys() == own.keys()
        assert all(now[k] is own[k] for k in own)
    assert base.generation_config.to_dict() == settings.to_dict()


def test_edits_below_an_adapter_are_those_of_the_merged_model(injected: Any) -> None:
    lab = lk.Lab(injected, Tokens(), name="adapted")
    merged = lk.Lab(copy.deepcopy(injected).merge_and_unload().eval(), Tokens(), name="merged")
    for edit in (
        lk.patch("residual[1] @ 1", 1.0),
        lk.ablate_head(1, 2),
        lk.patch("logits", lambda x: -x),
        lk.patch("mlp_output[0]", lambda x: 3 * x),
    ):
        figures = []
        for each in (lab, merged):
            with each.edit(edit):
                made = each.generate(words(TEXT), max_new_tokens=4)
                figures.append((made.ids, made.logprobs, each.trace(TEXT, keep="logits").logits))
        assert figures[0][0] == figures[1][0]
        torch.testing.assert_close(figures[0][1:], figures[1][1:], atol=1e-4, rtol=1e-4)


def test_logits_and_residuals_are_the_text_s_own(tuned: Any) -> None:
    lab = lk.Lab(tuned, Tokens(), name="tuned")
    for ids in (TEXT, TEXT[:-1], SHORT):
        with torch.no_grad():
            own = tuned(input_ids=torch.tensor([ids]), output_hidden_states=True)
        logits, n = own.logits[0, -len(ids) :], len(ids)
        trace = lab.trace(ids, keep=("logits", "residual"))
        torch.testing.assert_close(trace.logits, logits)
        torch.testing.assert_close(trace.residual(1), own.hidden_states[1][0, -n:])
        torch.testing.assert_close(lk.sae.residual(lab, ids, 1), own.hidden_states[1][0, -n:])
        torch.testing.assert_close(lab.next_logits(words(ids)), logits[-1])
        loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
        torch.testing.assert_close(trace.loss[1:].mean(), loss)
        assert trace.causal
        assert not trace.notes
        base = lk.Lab(tuned.get_base_model(), Tokens(), name="base")
        assert not torch.allclose(base.trace(ids, keep="logits").logits, logits, atol=1e-2)


@pytest.mark.parametrize("name", BEFORE_A_TEXT)
def test_a_model_that_looks_both_ways_has_no_loss_under_virtual_tokens_either(name: str) -> None:
    lab = lk.Lab(adapted(name, "llama_both_ways"), Tokens(), name="tuned")
    with pytest.raises(lk.Unavailable, match="looks at later tokens too"):
        lab.trace(TEXT, keep="logits").loss  # noqa: B018 # reading it is what is refused


def test_lists_under_virtual_tokens_are_as_alone(tuned: Any) -> None:
    lab = lk.Lab(tuned, Tokens(), name="tuned")
    texts = [TEXT, SHORT, TEXT[::-1]]
    for trace, ids in zip(lab.trace(texts, keep="logits"), texts, strict=True):
        torch.testing.assert_close(trace.logits, lab.trace(ids, keep="logits").logits, atol=1e-4, rtol=1e-4)
    made = lab.generate([words(ids) for ids in texts], max_new_tokens=4)
    for one, ids in zip(made, texts, strict=True):
        alone = lab.generate(words(ids), max_new_tokens=4)
        assert one.ids == alone.ids
        torch.testing.assert_close(one.logprobs, alone.logprobs, atol=1e-3, rtol=1e-3)


def test_text_under_virtual_tokens_is_peft_s_own(tuned: Any) -> None:
    lab = lk.Lab(tuned, Tokens(), name="tuned")
    ids = torch.tensor([TEXT])
    own = tuned.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, eos_token_id=None
    )
    assert lab.generate(words(TEXT), max_new_tokens=4).ids == own[0, len(TEXT) :].tolist()


def test_what_virtual_tokens_would_falsify_is_refused(tuned: Any) -> None:
    lab = lk.Lab(tuned, Tokens(), name="tuned")
    for keep in ("attention", "values"):
        with pytest.raises(lk.Unavailable, match="get_base_model"):
            lab.trace(TEXT, keep=keep)
    with pytest.raises(lk.LabError), lab.edit(lk.patch("residual[1] @ 0", 0.0)):
        pass
    with pytest.raises(lk.LabError):
        lk.patching(lab, TEXT, [*TEXT[:-1], 13], lambda logits: logits[-1, 3], progress=False)
    with pytest.raises(lk.LabError):
        lk.attention.effects(lab, TEXT, progress=False)


def test_a_context_has_room_for_virtual_tokens_too(tuned: Any) -> None:
    lab = lk.Lab(tuned, Tokens(), name="tuned")
    most = 128 - VIRTUAL
    assert len(lab.trace([3] * most, keep="logits")) == most
    with pytest.raises(lk.BadInput, match=str(most)):
        lab.trace([3] * (most + 1), keep="logits")


def test_an_adapter_switched_off_is_no_adapter(tuned: Any) -> None:
    lab = lk.Lab(tuned, Tokens(), name="tuned")
    base = lk.Lab(tuned.get_base_model(), Tokens(), name="base")
    with tuned.disable_adapter():
        torch.testing.assert_close(lab.trace(TEXT, keep="logits").logits, base.trace(TEXT, keep="logits").logits)
