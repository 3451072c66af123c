"""Generating under a form: the texts, what is recorded of the form, and every setting beside it."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import fuzz
import pytest
import torch
from schema_instances import validator
from tokenizers_of_kinds import KINDS

import labkit as lk
from labkit.errors import BadInput, Unavailable
from labkit.generation import forms, vocabulary

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "mood": {"enum": ["glad", "sad"]}},
    "required": ["n", "mood"],
    "additionalProperties": False,
}
CODE = r"[a-c]{2}-\d\d?"
WORDS = ["yes", "no", "yesterday"]
SUM = lk.Grammar('start: n ("+" n){1,2}\nn: /[1-9][0-9]?/')


def holds(form: object, text: str) -> bool:
    """Whether a text satisfies one of the forms above, told without llguidance."""
    if form is SCHEMA:
        return validator(SCHEMA).is_valid(json.loads(text))
    if form is SUM:
        return re.fullmatch(r"[1-9][0-9]?(\+[1-9][0-9]?){1,2}", text) is not None
    return text in WORDS if form is WORDS else re.fullmatch(form, text) is not None  # type: ignore[call-overload,no-any-return]


FORMS = [SCHEMA, CODE, re.compile("(?i)[ab]{3,5}"), WORDS, SUM]
NAMES = ["schema", "expression", "compiled", "choices", "grammar"]


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_text_has_the_form(tiny_lab: lk.Lab, form: Any, temperature: float) -> None:
    gens = tiny_lab.generate(
        ["abc", "hello there", "z"], chat=False, form=form, max_new_tokens=100, temperature=temperature, seed=1
    )
    for gen in gens:
        assert gen.finish_reason in ("form", "end")
        assert gen.form_complete
        assert holds(form, gen.text), gen.text
        assert gen.form is not None
        assert gen.form.given is form


@pytest.mark.real_model
@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_the_default_model_writes_in_the_form(default_lab: lk.Lab, form: Any) -> None:
    gen = default_lab.generate("Tell me about the sea.", form=form, max_new_tokens=60)
    assert gen.form_complete
    assert holds(form, gen.text), gen.text


def allowed_by_choices(lab: lk.Lab, written: str, choices: list[str]) -> torch.Tensor:
    """(vocabulary,) bool: the tokens after which a choice is still there, and the end where one is whole."""
    spelt = [lab.tokenizer.decode([id_]) for id_ in range(len(lab.tokenizer))]
    special = set(lab.tokenizer.all_special_ids)
    found = [
        id_ not in special and bool(text) and any(choice.startswith(written + text) for choice in choices)
        for id_, text in enumerate(spelt)
    ]
    found[lab.model.config.eos_token_id] = written in choices
    return torch.tensor(found)


@pytest.mark.parametrize(("penalty", "temperature"), [(None, 0.0), (1.3, 0.8)])
def test_what_was_forbidden_is_what_a_plain_pass_says(
    tiny_lab: lk.Lab, penalty: float | None, temperature: float
) -> None:
    """`forbidden` is of the model's own distribution, whatever comes behind it; the filters see allowed tokens alone."""
    gens = tiny_lab.generate(
        ["abc", "a longer prompt"],
        chat=False,
        form=WORDS,
        temperature=temperature,
        repetition_penalty=penalty,
        top_k=3 if temperature else None,
        seed=5,
        alternatives=30,
    )
    for gen in gens:
        with torch.no_grad():
            logits = (
                tiny_lab.model(torch.tensor([gen.prompt_ids + gen.ids]))
                .logits[0, len(gen.prompt_ids) - 1 : -1]
                .double()
            )
        assert gen.forbidden is not None
        assert gen.top_allowed is not None
        assert gen.forbidden.shape == (len(gen.ids),)
        for step, id_ in enumerate(gen.ids):
            allowed = allowed_by_choices(tiny_lab, tiny_lab.tokenizer.decode(gen.ids[:step]), WORDS)
            own = logits[step].softmax(-1)
            assert bool(allowed[id_])
            assert gen.forbidden[step].item() == pytest.approx(1 - own[allowed].sum().item(), abs=1e-5)
            assert torch.equal(gen.top_allowed[step], allowed[gen.top_ids[step]])
            if temperature:
                scores = logits[step].clone()
                seen = torch.tensor(sorted({*gen.prompt_ids, *gen.ids[:step]}))
                if penalty:
                    scores[seen] = torch.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
                scores = scores.masked_fill(~allowed, -torch.inf) / temperature
                scores[scores < scores.topk(3).values[-1]] = -torch.inf
                assert scores.log_softmax(-1)[id_].item() == pytest.approx(gen.sampled_logprobs[step].item(), abs=1e-4)
        assert gen.overridden == [i for i, mass in enumerate(gen.forbidden.tolist()) if mass > 0.5]


def test_without_a_form_nothing_is_recorded_of_one(tiny_lab: lk.Lab) -> None:
    gen = tiny_lab.generate("abc", chat=False, max_new_tokens=3)
    assert (gen.form, gen.forbidden, gen.top_allowed, gen.form_complete, gen.overridden) == (None, None, None, None, [])


def test_a_form_that_allows_everything_changes_nothing(tiny_lab: lk.Lab) -> None:
    plain = tiny_lab.generate("abc", chat=False, max_new_tokens=12)
    assert not set(plain.ids) & set(tiny_lab.tokenizer.all_special_ids)
    free = lk.Grammar("start: /(?s:.*)/")
    gen = tiny_lab.generate("abc", chat=False, max_new_tokens=12, form=free)
    if "\ufffd" not in plain.text:
        assert gen.ids == plain.ids
        assert torch.equal(gen.logprobs, plain.logprobs)
    assert gen.form_complete != gen.text.endswith("\ufffd"), "it is whole at each step but within a character"


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_a_list_comes_back_as_if_run_alone(tiny_lab: lk.Lab, form: Any) -> None:
    texts = ["abc", "a", "hello there, a longer text"]
    for gen, text in zip(tiny_lab.generate(texts, chat=False, form=form, max_new_tokens=40), texts, strict=True):
        alone = tiny_lab.generate(text, chat=False, form=form, max_new_tokens=40)
        assert gen.ids == alone.ids
        assert gen.forbidden is not None
        assert alone.forbidden is not None
        assert torch.allclose(gen.forbidden, alone.forbidden, atol=1e-5)
        assert (gen.finish_reason, gen.form_complete) == (alone.finish_reason, alone.form_complete)


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_the_stream_is_the_text(tiny_lab: lk.Lab, form: Any) -> None:
    gen = tiny_lab.generate("abc", chat=False, form=form, max_new_tokens=60)
    assert "".join(tiny_lab.stream("abc", chat=False, form=form, max_new_tokens=60)) == gen.text
    assert tiny_lab.last_generation.ids == gen.ids
    assert tiny_lab.last_generation.form_complete == gen.form_complete


def test_speculation_writes_the_same_in_a_form(tiny_lab: lk.Lab) -> None:
    for form in (SCHEMA, CODE):
        plain = tiny_lab.generate("ab-12 ab-12 ab-12", chat=False, form=form, max_new_tokens=60)
        drafted = tiny_lab.generate(
            "ab-12 ab-12 ab-12", chat=False, form=form, max_new_tokens=60, speculation="prompt_lookup"
        )
        assert drafted.ids == plain.ids
        assert drafted.forbidden is not None
        assert plain.forbidden is not None
        assert torch.allclose(drafted.forbidden, plain.forbidden, atol=1e-5)


@pytest.mark.filterwarnings("ignore:speed='fast' compiles")
def test_a_static_cache_writes_the_same_in_a_form(tiny_lab: lk.Lab) -> None:
    plain, fast = (
        tiny_lab.generate("abc", chat=False, form=CODE, max_new_tokens=30, speed=s) for s in ("plain", "fast")
    )
    assert fast.ids == plain.ids
    assert fast.forbidden is not None
    assert plain.forbidden is not None
    assert torch.allclose(fast.forbidden, plain.forbidden, atol=1e-4)


def test_a_gguf_files_tokenizer_serves_a_form(tmp_path: Path) -> None:
    lab = lk.load(fuzz.tiny_gguf(tmp_path / "tiny.gguf"), device="cpu")
    for form in (SCHEMA, CODE, WORDS):
        gen = lab.generate("abc", chat=False, form=form, max_new_tokens=80, temperature=1.0, seed=2)
        assert gen.form_complete
        assert holds(form, gen.text), gen.text
        assert not set(gen.ids[:-1]) & set(lab.tokenizer.all_special_ids)
    lab.close()


# how a text in a form ends ------------------------------------------------------------------------------------------------


def test_a_limit_leaves_the_beginning_of_such_a_text(tiny_lab: lk.Lab) -> None:
    for form in (SCHEMA, "[ab]{200,}"):
        gen = tiny_lab.generate("abc", chat=False, form=form, max_new_tokens=5)
        assert (gen.finish_reason, len(gen.ids), gen.form_complete) == ("length", 5, False)
        held = forms.FormMasks(forms.read(form), tiny_lab.tokenizer, [2], 1)  # type: ignore[arg-type]
        held.follow(0, gen.ids)
        assert bool(held.allowed(0, len(tiny_lab.tokenizer)).any())


def test_a_full_context_ends_a_form_too(tiny_lab: lk.Lab) -> None:
    context = tiny_lab.context
    assert context is not None
    gen = tiny_lab.generate([5] * (context - 4), form="[ab]{200,}")
    assert (gen.finish_reason, len(gen.ids), gen.form_complete) == ("context", 4, False)


def test_the_end_comes_only_where_the_text_is_whole_and_nothing_after_it(tiny_lab: lk.Lab) -> None:
    ends = [2, tiny_lab.tokenizer("a").input_ids[0], tiny_lab.tokenizer("-").input_ids[0]]
    tiny_lab.model.generation_config.eos_token_id = ends
    for seed in range(6):
        gen = tiny_lab.generate("abc", chat=False, form="[abc]{2,9}-?", temperature=3.0, seed=seed, max_new_tokens=30)
        # tokens that end the text are no text, whatever they spell
        assert re.fullmatch("[bc]{2,9}", gen.text), gen.text
        assert gen.finish_reason in ("end", "form")
        assert not set(gen.ids[:-1]) & set(ends)
        assert gen.form_complete


def test_a_model_without_an_end_token_ends_with_the_form(tiny_lab: lk.Lab) -> None:
    tiny_lab.model.generation_config.eos_token_id = None
    tiny_lab.model.config.eos_token_id = None
    gen = tiny_lab.generate("abc", chat=False, form="[ab]{3}")
    assert (gen.finish_reason, len(gen.text), gen.form_complete) == ("form", 3, True)
    open_ = tiny_lab.generate("abc", chat=False, form="[ab]{3,}", max_new_tokens=9)
    assert (open_.finish_reason, open_.form_complete) == ("length", True)


def test_special_tokens_are_no_part_of_a_form(tiny_lab: lk.Lab) -> None:
    special = tiny_lab.tokenizer.all_special_ids
    with torch.no_grad():
        tiny_lab.model.lm_head.weight[special] += 3.0 * tiny_lab.model.lm_head.weight.abs().max()
    gen = tiny_lab.generate("abc", chat=False, form=r"(?s).{12}", max_new_tokens=60, temperature=1.0, seed=0)
    assert not set(gen.ids[:-1]) & set(special)
    named = tiny_lab.generate("abc", chat=False, form=["<|im_end|>"], max_new_tokens=30)
    assert named.text == "<|im_end|>", "the name is spelt"
    assert named.form_complete


def test_a_stop_string_may_end_it_before(tiny_lab: lk.Lab) -> None:
    gen = tiny_lab.generate("abc", chat=False, form="[ab]{4}-[ab]{4}", stop="-", max_new_tokens=30)
    assert gen.finish_reason == "stop"
    assert re.fullmatch("[ab]{4}", gen.text)
    assert gen.form_complete is False
    whole = tiny_lab.generate(
        "abc", chat=False, form="[ab]{4}(-[ab]{4})?", stop="-", max_new_tokens=30, temperature=2.0, seed=3
    )
    assert whole.form_complete, "what is left satisfies the form"


def test_stopping_and_interrupts_keep_what_there_is(tiny_lab: lk.Lab) -> None:
    event = threading.Event()
    seen: list[lk.Generation] = []

    def on_token(gen: lk.Generation) -> None:
        seen.append(gen)
        if len(gen.ids) == 3:
            event.set()

    gen = tiny_lab.generate("abc", chat=False, form="[ab]{60}", on_token=on_token, stop_event=event)
    assert (gen.finish_reason, len(gen.ids), gen.form_complete) == ("stopped", 3, False)
    assert [len(one.forbidden) for one in seen if one.forbidden is not None] == [1, 2, 3]
    assert gen.forbidden is not None
    assert len(gen.forbidden) == 3

    def interrupt(gen: lk.Generation) -> None:
        if len(gen.ids) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_lab.generate("abc", chat=False, form="[ab]{60}", on_token=interrupt)
    kept = tiny_lab.last_generation
    assert (kept.finish_reason, len(kept.ids), kept.form_complete) == ("interrupted", 2, False)
    assert tiny_lab.generate("abc", chat=False, form=WORDS).text in WORDS, "the lab stays usable"


# following ------------------------------------------------------------------------------------------------------------------


def _held(form: object, tokenizer: Any, ends: list[int] | None = None) -> forms.FormMasks:
    read = forms.read(form)
    assert read is not None
    return forms.FormMasks(read, tokenizer, [2] if ends is None else ends, 1)


def test_a_row_may_be_taken_back_and_go_another_way() -> None:
    tokenizer = fuzz.tiny_tokenizer()
    held, width = _held(["one two", "one three", "onetwo"], tokenizer), len(tokenizer)
    ids = {text: tokenizer(text).input_ids for text in ("one two", "one three", "onetwo")}
    begun = {}
    for text in ("one two", "onetwo", "one three", "one two"):
        for end in range(len(ids[text]) + 1):
            held.follow(0, ids[text][:end])
            mask = held.allowed(0, width)
            known = begun.setdefault(tuple(ids[text][:end]), mask)
            assert torch.equal(mask, known)
        assert held.complete(0)
        assert held.finished(0)
    with pytest.raises(BadInput, match="form forbids it"):
        held.follow(0, ids["one two"][:2] + tokenizer("x").input_ids)
    held.follow(0, ids["onetwo"])
    assert held.complete(0), "a token that was refused leaves no trace"


@pytest.mark.parametrize(
    "grammar",
    ['start: x "z" y\nx[max_tokens=3]: /[ab]+/\ny: /[a-z]+/', 'start: x /[0-9]+/\nx[stop="stop"]: /(?s:.*)/'],
    ids=["max_tokens", "stop"],
)
def test_a_row_is_taken_back_where_llguidance_can_not(grammar: str) -> None:
    tokenizer = fuzz.tiny_tokenizer()
    held, width = _held(lk.Grammar(grammar), tokenizer), len(tokenizer)
    one, other = tokenizer("abzx").input_ids, tokenizer("bab").input_ids
    for ids in (one, one[:2], other, one[:1], one):
        held.follow(0, ids)
        fresh = _held(lk.Grammar(grammar), tokenizer)
        fresh.follow(0, ids)
        assert torch.equal(held.allowed(0, width), fresh.allowed(0, width))
        assert held.complete(0) == fresh.complete(0)


def test_no_character_that_the_tokenizer_lacks_is_waited_for() -> None:
    tokenizer = KINDS["metaspace"]()
    with pytest.raises(BadInput, match="Nothing that this model's tokens can spell"):
        _held(["xyz"], tokenizer)
    held = _held(["ax", "b"], tokenizer)
    held.follow(0, tokenizer.convert_tokens_to_ids(["a"]))
    with pytest.raises(Unavailable, match="after 'a'"):
        held.allowed(0, len(tokenizer))


@pytest.mark.parametrize("kind", ["llama", "metaspace"])
def test_a_space_that_a_decoder_takes_off_is_not_written_first(kind: str) -> None:
    tokenizer = KINDS[kind]()
    held = _held(["a hi", " hi"], tokenizer)
    spaced = [id_ for id_ in range(len(tokenizer)) if str(tokenizer.convert_ids_to_tokens(id_)).startswith("▁")]
    assert not held.allowed(0, len(tokenizer))[spaced].any()
    held.follow(0, tokenizer.convert_tokens_to_ids(["a"]))
    assert bool(held.allowed(0, len(tokenizer))[tokenizer.convert_tokens_to_ids("▁hi")])


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_that_spell_their_text_are_served_and_others_refused(kind: str) -> None:
    tokenizer = KINDS[kind]()
    if kind in ("wordpiece", "words", "suffixed"):
        with pytest.raises(Unavailable, match="byte by byte"):
            _held(["a"], tokenizer)
        return
    held = _held(r"[a-bé .!]{4}", tokenizer)
    ids: list[int] = []
    while not held.finished(0):
        ids.append(int(held.allowed(0, len(tokenizer)).nonzero()[-1 if len(ids) % 2 else 0, 0]))
        held.follow(0, ids)
    assert re.fullmatch(r"[a-bé .!]{4}", tokenizer.decode(ids, clean_up_tokenization_spaces=False)), ids


def test_the_vocabulary_and_a_compiled_form_are_kept_with_the_tokenizer() -> None:
    tokenizer = fuzz.tiny_tokenizer()
    first, second = _held(WORDS, tokenizer), _held(tuple(WORDS), tokenizer)
    assert first.vocabulary is second.vocabulary
    assert len(first.vocabulary.compiled) == 1
    for n in range(forms.MOST_COMPILED + 3):
        _held(["x" * (n + 1)], tokenizer)
    assert len(first.vocabulary.compiled) == forms.MOST_COMPILED
    tokenizer.add_tokens(["wholly new"])
    grown = _held(["wholly new"], tokenizer)
    assert grown.vocabulary is not first.vocabulary
    assert bool(grown.allowed(0, len(tokenizer))[len(tokenizer) - 1])
    gone = weakref.ref(tokenizer)
    del tokenizer, first, second, grown
    gc.collect()
    assert gone() is None, "what is kept holds the tokenizer"


def test_ids_past_the_vocabulary_are_forbidden(tiny_lab: lk.Lab) -> None:
    held = _held(WORDS, tiny_lab.tokenizer)
    assert not held.allowed(0, 400)[len(tiny_lab.tokenizer) :].any()
    assert len(held.allowed(0, 100)) == 100
    assert vocabulary.vocabulary(tiny_lab.tokenizer, [2]) is held.vocabulary


# bad input ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (3, "form=3 can't be used; give a JSON schema"),
        (True, "form=True"),
        (b"a", "form=b'a'"),
        ("", "form=''"),
        ([], r"form=\[\]"),
        (["a", ""], "form="),
        (["a", 1], "form="),
        (["a", "b\ud800"], "surrogate"),
        ({"a", "b"}, "form="),
        (int, "form="),
        ('start: "a"', "lk.Grammar"),
        ('{"type": "object"}', "json.loads"),
        (lk.Grammar("start: nothing"), "grammar can't be enforced.*nothing"),
        (lk.Grammar('begin: "a"'), "no start rule"),
        (lk.Grammar('start: <|im_end|> "a"'), "special tokens"),
        (lk.Grammar('start: a\na[temperature=0.5]: "b"'), "temperature"),
        (lk.Grammar("start: /a(?=b)/"), "look-ahead"),
    ],
)
def test_what_is_no_form(tiny_lab: lk.Lab, form: Any, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    for ask in (tiny_lab.generate, tiny_lab.stream):
        with pytest.raises(BadInput, match=said) as caught:
            ask("abc", chat=False, form=form)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", ["", "  ", 3, None])
def test_what_is_no_grammar(text: Any) -> None:
    with pytest.raises(BadInput, match="Grammar="):
        lk.Grammar(text)


def test_forms_are_equal_by_what_they_hold_to() -> None:
    assert forms.read(["a", "b"]) == forms.read(("a", "b", "a"))
    assert forms.read("a|b") != forms.read("b|a")
    assert "choices" in repr(forms.read(["a"]))
    assert forms.read(form := forms.read("a")) is form


def test_a_form_needs_llguidance(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(Unavailable, match="pip install llguidance"):
        tiny_lab.generate("abc", chat=False, form="a")
    assert tiny_lab.generate("abc", chat=False, max_new_tokens=1).ids


def test_a_grammar_of_many_rules_is_compiled_and_followed() -> None:
    count = 20_000
    rules = "\n".join(f'r{i}: "{i % 10}" (r{(i * 7 + 1) % count} | "x")' for i in range(count))
    held = _held(lk.Grammar("start: r0\n" + rules), fuzz.tiny_tokenizer())
    assert held.accepts("01x")
    assert not held.accepts("02x")


_CHAIN = """
import sys
import threading

import fuzz

import labkit as lk
from labkit.errors import BadInput
from labkit.generation import forms

threading.stack_size(2**20)  # less than any system gives


def hold(count, terminals):
    name = "T" if terminals else "r"
    rules = "\\n".join(f'{name}{i}: "a" {name}{i + 1} | "b"' for i in range(count))
    form = forms.read(lk.Grammar(f'start: {name}0\\n{rules}\\n{name}{count}: "c"'))
    return forms.FormMasks(form, fuzz.tiny_tokenizer(), [2], 1)


def run():
    for count, terminals in ((100, False), (20_000, False), (100_000, True)):
        held = hold(count, terminals)
        print(held.accepts("aab"), held.accepts("ac"))
    try:
        hold(100_000, False)
    except BadInput as error:
        print(error)
    print(threading.stack_size())


thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def test_rules_that_lead_from_one_to_the_next_do_not_end_the_process() -> None:
    """llguidance goes down from rule to rule on the machine's stack: in a process of its own, as one that runs over is gone."""
    path = os.pathsep.join([str(Path(fuzz.__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", _CHAIN],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = "This grammar can't be enforced: it has too many rules."
    assert done.stdout.splitlines() == ["True False"] * 3 + [said, str(2**20)]


def test_a_form_that_takes_too_much_work_is_said_and_what_there_is_kept(tiny_lab: lk.Lab) -> None:
    names = range(1200)
    rules = "\n".join(f'r{n}: "a" r{n} | "b" "{n}"' for n in names)
    form = lk.Grammar("start: " + " | ".join(f"r{n}" for n in names) + "\n" + rules)
    with pytest.raises(Unavailable, match=r"can't be followed any further.*items") as caught:
        tiny_lab.generate("abc", chat=False, form=form, max_new_tokens=40)
    assert "\n" not in str(caught.value)
    assert tiny_lab.last_generation.finish_reason == "stopped"
    assert tiny_lab.generate("abc", chat=False, form=WORDS).text in WORDS
