"""What a lab was calibrated on, or its mix was found on, is no text to measure it by: it is known and refused."""

from __future__ import annotations

import fuzz
import numpy as np
import pytest

import labkit as lk
from labkit.quantization import accuracy, by_format, cache_damage, damage, mix, multiple_choice, quantize
from labkit.quantization.inventory import record_of
from labkit.trace.overlaps import Seen

SENTENCES = (
    "a river that rises in the hills and runs to the western sea",
    "an engine burns what it is fed and turns the heavy wheel",
    "seven judges heard the case of the miller and his neighbour",
    "the old map shows a harbour where the salt marsh is today",
    "bread of rye keeps for weeks when it is baked with a hard crust",
    "no bird sings in this valley before the first snow has gone",
    "glass is cooled so slowly that it never finds the time to set",
    "they counted the votes twice and found one more than before",
)
CALIBRATION = {"ours": [f"{a}, and then {b}" for a in SENTENCES[:4] for b in SENTENCES[:4]]}
OTHERS = {"theirs": [f"{a}; but {b}" for a, b in zip(SENTENCES[4:], SENTENCES[:3:-1], strict=True)]}


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def calibrated(lab: lk.Lab) -> lk.Lab:
    return quantize(lab, "int4", method="gptq", calibration=CALIBRATION, progress=False)


def test_damage_on_the_calibration_text_is_refused_with_its_name(lab: lk.Lab, calibrated: lk.Lab) -> None:
    mixed = {"theirs": OTHERS["theirs"], "mine": [OTHERS["theirs"][0], CALIBRATION["ours"][5]]}
    with pytest.raises(lk.BadInput, match=r"1 of the documents to measure on \(mine 1\) .* calibrated on"):
        damage(lab, calibrated, mixed, progress=False)
    assert damage(lab, calibrated, OTHERS, progress=False).kl > 0
    plain = quantize(lab, "int4", progress=False)  # no method that reads text
    assert damage(lab, plain, CALIBRATION, progress=False).kl > 0
    with pytest.raises(lk.BadInput, match="calibrated on"):  # in a list, beside one that may be measured so
        damage(lab, [plain, calibrated], CALIBRATION, progress=False)


def test_spaces_case_and_a_part_of_it_change_nothing(lab: lk.Lab, calibrated: lk.Lab) -> None:
    text = CALIBRATION["ours"][5]
    for again in (text.upper(), text.replace(" ", "\n  "), f"by the way: {text}", text[9:]):
        with pytest.raises(lk.BadInput, match="calibrated on"):
            damage(lab, calibrated, {"ours": [again]}, progress=False)


def test_text_beyond_the_context_is_known_too(lab: lk.Lab) -> None:
    long = " ".join(SENTENCES[:4] * 9)
    made = quantize(lab, "int4", method="gptq", calibration=[long, SENTENCES[4]], progress=False)
    with pytest.raises(lk.BadInput, match="calibrated on"):
        damage(lab, made, [SENTENCES[3]], progress=False)


def test_cache_damage_and_accuracy_refuse_it_too(
    lab: lk.Lab, calibrated: lk.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(lk.BadInput, match="calibrated on"):
        cache_damage(calibrated, CALIBRATION, progress=False)
    first, second = SENTENCES[0], SENTENCES[1]
    questions = [
        multiple_choice.Question("q7", OTHERS["theirs"][0], ("so", "not so"), 0),
        multiple_choice.Question("q8", f"{first}, and", (f"then {second}", "no more"), 0),
    ]
    monkeypatch.setattr(multiple_choice, "read", lambda _task, _seed: questions)
    with pytest.raises(lk.BadInput, match=r"1 of the questions \(q8\)"):
        accuracy(calibrated, progress=False)
    assert len(accuracy(lab, progress=False)) == 2


def test_a_lab_of_a_mix_knows_the_texts_it_was_found_on(lab: lk.Lab) -> None:
    found = mix(lab, budget_bytes=10**9, texts=CALIBRATION, measured_on=OTHERS, progress=False)
    with pytest.raises(lk.BadInput, match="mix of formats found on"):
        damage(lab, found.lab(), CALIBRATION, progress=False)
    assert damage(lab, found.lab(), OTHERS, progress=False).kl >= 0


def test_one_passage_of_it_on_the_other_side_is_found_where_texts_are_given_twice(lab: lk.Lab) -> None:
    within = {"theirs": [OTHERS["theirs"][0], f"{CALIBRATION['ours'][1].title()} ."]}
    with pytest.raises(lk.BadInput, match=r"\(theirs 1\)"):
        mix(lab, budget_bytes=10**9, texts=CALIBRATION, measured_on=within, progress=False)
    with pytest.raises(lk.BadInput, match=r"\(theirs 1\)"):
        by_format(lab, within, ("int4",), method="gptq", calibration=CALIBRATION, progress=False)


def test_a_page_out_of_a_long_text_is_found_and_a_line_is_not(lab: lk.Lab) -> None:
    page, line = " ".join(CALIBRATION["ours"])[:700], SENTENCES[0]
    seen = Seen.of(lab, [page])
    filler = " ".join(f"{n} times {n} is {n * n}" for n in range(300))
    ids = [lab.tokenizer(text).input_ids for text in (f"{filler} {page} {filler}", f"{filler} {line} {filler}")]
    assert seen.among(lab, ids) == [0]


def test_hashes_are_kept_and_no_text(calibrated: lk.Lab) -> None:
    record = record_of(calibrated)
    assert record is not None
    ((_, seen),) = record.seen
    assert seen.passages.dtype == np.uint64
    assert all(isinstance(each, bytes) for each in seen.documents)


def test_the_texts_that_come_with_labkit_are_apart(lab: lk.Lab) -> None:
    """Boilerplate that documents of a collection share is no overlap."""
    texts = lk.quantization.texts()
    for kind, passages in texts.items():
        tokens = [lab.tokenizer(text).input_ids for text in passages]
        half = len(tokens) // 2
        assert Seen.of_ids(lab, tokens[:half]).among(lab, tokens[half:]) == [], kind
        assert Seen.of_ids(lab, tokens[:half]).among(lab, tokens[half - 1 :]) == [0], kind
