"""Features found by their words and by what texts have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import fuzz
import numpy as np
import pytest
import torch
from dictionaries import make_lab
from planted import detectors, mirror, rows

import labkit as lk
from labkit.errors import BadInput
from labkit.sae import Index, common, search
from labkit.sae.indexing import EDGES, SPREAD, TOP, WINDOW

NOTHING = 2**16 - 1  # no token, among ids of two bytes


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    """A byte-level tokenizer that knows a few words of cats and dogs and writes all others letter by letter."""
    return lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")


def sae() -> Any:
    return mirror()


def concordance(lab: lk.Lab, examples: Sequence[Sequence[tuple[str, str]]], *, at: str = "last") -> Index:
    """An index by hand: each feature's examples as (text before the end of the peak, text after it)."""
    examples = [*examples, *[[]] * (len(sae()) - len(examples))]
    shape = (len(examples), TOP + SPREAD)
    ids = np.full((*shape, WINDOW), NOTHING, dtype=np.uint16)
    peaks, values = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.float32)
    for feature, of_feature in enumerate(examples):
        for slot, (before, after) in enumerate(of_feature):
            begun = lab.tokenizer(before).input_ids
            whole = [*begun, *lab.tokenizer(after).input_ids] if after else begun
            ids[feature, slot, : len(whole)] = whole
            peaks[feature, slot] = len(begun) - 1
            values[feature, slot] = 5 - slot / 10
    counts = 10 * (1 + np.arange(len(examples), dtype=np.int32))
    nothing = np.zeros((len(examples), 1), dtype=np.float32)
    return Index(
        counts,
        values.max(1),
        np.zeros((len(examples), len(EDGES) - 1), dtype=np.int32),
        nothing,
        ids,
        np.zeros((*shape, WINDOW), dtype=np.uint8),
        peaks,
        values,
        np.zeros(shape, dtype=np.uint8),
        ("text",),
        (1_000,),
    )


# words -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        ("the cat sat", " on", "sat"),
        ("in Jan", "uary it", "january"),  # peak in the middle of a word: from its beginning to its end
        ("in J", "anuary it", "january"),
        ("in January", " it", "january"),
        ("January", "", "january"),  # where the text begins
        ("the (cat", ") ran", "cat"),
        ('"Cat', '"', "cat"),
        ("dog.\n\nThe", " cat", "the"),
        ("the cat,", " dog", ""),  # the peak is on the comma
        ("cat-dog", " ran", "dog"),
        ("cat", "-dog", "cat"),
        ("the_cat", "_ran", "cat"),
        ("it is 42", " now", "42"),
        ("the", "re is", "there"),
        ("STRASSE", " x", "strasse"),
    ],
)
def test_the_word_of_a_peak_is_put_together(lab: lk.Lab, before: str, after: str, word: str) -> None:
    table = search(lab, sae(), word or "nothing", of=concordance(lab, [[(before, after)]]))
    assert table["feature"].tolist() == ([0] if word else [])
    if word:
        assert table["found"].tolist() == [word]
        assert table["hits"].tolist() == table["examples"].tolist() == [1]


@pytest.mark.parametrize(
    ("before", "after", "asked", "word"),
    [
        ("二月", "的", "月", "月"),  # each character of three tokens, one a byte
        ("二月", "的", "二月", "月"),
        ("二月", "的", "月的", "月"),
        ("二月", "的", "二", ""),  # beside the peak
        ("in 二月", " now", "二月", "月"),
        ("Ärger", " now", "ärger", "ärger"),
    ],
)
def test_characters_of_several_tokens_are_found(lab: lk.Lab, before: str, after: str, asked: str, word: str) -> None:
    table = search(lab, sae(), asked, of=concordance(lab, [[(before, after)]]))
    assert table["found"].tolist() == ([word] if word else [])


def test_a_peak_on_a_part_of_a_character_is_on_the_character(lab: lk.Lab) -> None:
    found = concordance(lab, [[("月", "的")]])
    assert found.peaks[0, 0] == 2
    for peak in (0, 1, 2):
        there = replace(found, peaks=np.full_like(found.peaks, peak))
        assert search(lab, sae(), "月", of=there)["found"].tolist() == ["月"]


def test_whole_words_in_any_case_however_they_are_given(lab: lk.Lab) -> None:
    found = concordance(lab, [[("the cat", "s")], [("a cat", " ran")], [("the Dog", " ran")]])
    assert search(lab, sae(), "cat", of=found)["feature"].tolist() == [1]  # not "cats"
    for asked in ("CAT dog", "cat, dog", "cat,dog", ["Cat", "dog!"], ("cat", "DOG"), ' "cat"  (dog) '):
        table = search(lab, sae(), asked, of=found)
        assert sorted(table["feature"]) == [1, 2]
        assert table.asked == ("cat", "dog")


def test_the_best_come_first(lab: lk.Lab) -> None:
    """By hits, then by how many different words, then by the share of the examples, then the rarer feature."""
    cat, dog, tree = ("the cat", " ran"), ("the dog", " ran"), ("a tree", " ran")
    found = concordance(
        lab,
        [
            [cat, tree],
            [cat, cat],
            [tree, tree],
            [cat, dog, cat],
            [cat, cat],
            [],
        ],
    )
    table = search(lab, sae(), "cat dog", of=found)
    assert table["feature"].tolist() == [3, 1, 4, 0]
    assert table["hits"].tolist() == [3, 2, 2, 1]
    assert table["examples"].tolist() == [3, 2, 2, 2]
    assert table["words"].tolist() == [2, 1, 1, 1]
    assert table["found"].tolist() == ["cat, dog", "cat", "cat", "cat, tree"]
    np.testing.assert_allclose(table["density"], [0.04, 0.02, 0.05, 0.01])
    assert 2 <= table.chance <= 3  # 8 hits dealt to 11 examples, of which no feature has more than 3
    assert len(search(lab, sae(), "cat dog", of=found, k=2)) == 2


def test_one_hit_of_one_comes_after_six_of_eight(lab: lk.Lab) -> None:
    cat, dog, tree = ("the cat", " ran"), ("the dog", " ran"), ("a tree", " ran")
    found = concordance(lab, [[cat], [cat, cat], [*[cat] * 6, tree, tree], [cat, tree], [cat, dog, tree, tree]])
    table = search(lab, sae(), "cat dog", of=found)
    assert table["feature"].tolist() == [2, 4, 1, 0, 3]
    assert table["hits"].tolist() == [6, 2, 2, 1, 1]
    assert table["examples"].tolist() == [8, 4, 2, 1, 2]


@pytest.mark.parametrize("words", [[3], ["cat", 3], [None, "cat"], [["cat"]], (b"cat",), range(3)])
def test_words_that_are_no_texts_are_refused(lab: lk.Lab, words: Any) -> None:
    with pytest.raises(BadInput, match="Words to look for are texts; give them as one text, or as a list of texts"):
        search(lab, sae(), words, of=concordance(lab, [[("the cat", " ran")]]))


def test_another_index_is_another_search(lab: lk.Lab) -> None:
    one, other = concordance(lab, [[("the cat", " ran")]]), concordance(lab, [[("the dog", " ran")]])
    for _ in range(2):
        assert search(lab, sae(), "cat", of=one)["feature"].tolist() == [0]
        assert search(lab, sae(), "cat", of=other)["feature"].tolist() == []


def test_nothing_found_is_an_empty_table(lab: lk.Lab) -> None:
    table = search(lab, sae(), "unheard", of=concordance(lab, [[("the cat", " ran")]]))
    assert table.empty
    assert list(table.columns) == ["feature", "hits", "examples", "words", "density", "found"]
    assert table.chance == 0
    assert search(lab, sae(), "cat", of=concordance(lab, [[], []])).chance == 0  # no example anywhere


@pytest.mark.parametrize("words", [3, None, 2.5])
def test_what_is_no_word_is_refused(lab: lk.Lab, words: Any) -> None:
    with pytest.raises(BadInput, match="Words to look for are texts"):
        search(lab, sae(), words, of=concordance(lab, [[("the cat", " ran")]]))


@pytest.mark.parametrize("words", ["", "  ,, ", [], ["", "!"], "..."])
def test_no_word_is_refused(lab: lk.Lab, words: Any) -> None:
    with pytest.raises(BadInput, match="no word to look for; give some"):
        search(lab, sae(), words, of=concordance(lab, [[("the cat", " ran")]]))


def test_it_finds_the_words_of_an_index_of_texts(lab: lk.Lab) -> None:
    ids = sorted(set(lab.tokenizer(" the cat sat on mat because it was tired and dog ran after").input_ids))
    known = detectors(lab)
    found = lk.sae.index(lab, known, rows(12, 90, tokens=ids))
    table = search(lab, known, ["cat", "dog", "rain"], of=found)
    assert sorted(table["feature"]) == sorted(lab.tokenizer(" cat dog").input_ids)
    assert (table["hits"] == table["examples"]).all()
    assert 0 < table.chance < table["hits"].max()


# what texts have in common ---------------------------------------------------------------------------------------------


def test_a_feature_planted_in_five_texts_is_found() -> None:
    lab = make_lab()
    known = replace(detectors(lab), encoder=detectors(lab).encoder * torch.linspace(1, 1.1, 100))
    present = [[*row[:20], 60, *row[20:]] for row in rows(5, 40, tokens=range(3, 50))]
    absent = rows(5, 40, seed=1, tokens=range(3, 50))
    table = common(lab, known, present, absent)
    assert table["feature"][0] == 60
    first = table.iloc[0]
    per_unit = 10 * (1 + 0.1 * 60 / 99)
    assert first["weakest"] == pytest.approx(per_unit - 8, rel=1e-3)
    assert first["strongest_absent"] == 0
    assert first["margin"] == first["weakest"]
    assert table.separating == len(table) >= 1
    assert table.by_chance < 0.5
    # of 252 ways to deal five from ten the true one and its opposite part them, and few others
    assert 1 / 201 <= table.as_many < 0.1


def test_the_first_token_of_a_text_says_nothing() -> None:
    lab = make_lab()
    present = [[60, *row] for row in rows(5, 40, tokens=range(3, 50))]
    assert 60 not in common(lab, detectors(lab), present, rows(5, 40, seed=1, tokens=range(3, 50)))["feature"].tolist()


def test_margins_are_weakest_less_strongest_and_the_widest_come_first() -> None:
    lab = make_lab("llama3")
    sae = mirror()
    present, absent = rows(3, 12), rows(4, 12, seed=1)
    table = common(lab, sae, present, absent, k=50)

    def heights(texts: Sequence[Any]) -> np.ndarray:
        return np.array([sae.encode(lk.sae.residual(lab, text, 1)[1:]).amax(0).numpy() for text in texts])

    weakest, strongest = heights(present).min(0), heights(absent).max(0)
    margin = np.where(weakest > 0, weakest - strongest, -np.inf)
    order = [i for i in np.argsort(-margin) if margin[i] > 0]
    assert order
    assert table["feature"].tolist() == order
    np.testing.assert_allclose(table["weakest"], weakest[order], rtol=1e-4)
    np.testing.assert_allclose(table["strongest_absent"], strongest[order], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table["margin"], margin[order], rtol=1e-3, atol=1e-5)
    assert table.separating == len(order)
    assert len(common(lab, sae, present, absent, k=1)) == 1


def test_among_texts_of_one_kind_as_many_separate_as_by_chance() -> None:
    """Over many draws of alike texts the count is that of the random dealings, in the mean."""
    lab = make_lab()
    sae = mirror(layer=1)
    counts, by_chance = [], []
    for seed in range(12):
        texts = rows(6, 10, seed=seed)
        found = common(lab, sae, texts[:3], texts[3:], k=1)
        counts.append(found.separating)
        by_chance.append(found.by_chance)
    # by theory a feature with all heights above zero parts three from three in 1 of 20 dealings: 64 / 20
    assert np.mean(by_chance) == pytest.approx(3.2, abs=0.4)
    assert abs(np.mean(counts) - np.mean(by_chance)) < 3 * np.std(counts, ddof=1) / np.sqrt(len(counts))


def test_dealing_is_by_seed() -> None:
    lab, texts = make_lab(), rows(6, 10)
    one, same, other = (common(lab, mirror(), texts[:3], texts[3:], seed=s).by_chance for s in (0, 0, 1))
    assert one == same
    assert one != other


def test_nothing_in_common_is_an_empty_table() -> None:
    lab = make_lab()
    table = common(lab, detectors(lab), [[3, 4], [3, 5]], [[3, 6], [3, 7]])
    assert table.empty
    assert table.attrs == {"separating": 0, "by_chance": 0.0, "as_many": 1.0}


def test_a_single_text_is_not_read_letter_by_letter() -> None:
    lab = make_lab()
    with pytest.raises(BadInput, match="present are to be a list of texts"):
        common(lab, detectors(lab), "a text with a year", rows(5, 10))
    with pytest.raises(BadInput, match="absent are to be a list of texts"):
        common(lab, detectors(lab), rows(5, 10), [3, 4, 5])


@pytest.mark.parametrize(("present", "absent"), [(1, 5), (5, 1), (0, 2), (2, 0)])
def test_too_few_texts_are_refused(present: int, absent: int) -> None:
    lab = make_lab()
    with pytest.raises(BadInput, match="at least two texts that have it and two that lack it"):
        common(lab, detectors(lab), rows(present, 10), rows(absent, 10))


def test_chance_is_shown_with_what_was_found_and_kept_with_a_part_of_it(lab: lk.Lab) -> None:
    found = search(
        lab, sae(), "cat", of=concordance(lab, [[("a cat", ""), ("the cat", "")], [("a dog", ""), ("cat", "")]])
    )
    row = next(line for line in repr(found).splitlines() if line.startswith("chance"))
    assert f"{found.chance:.6f}".rstrip("0")[:4] in row
    some = found[found["hits"] > 1]
    assert (len(some), some.chance, some.asked) == (1, found.chance, ("cat",))
    assert list(found.table.columns) == ["feature", "hits", "examples", "words", "density", "found"]
