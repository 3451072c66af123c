"""Two models side by side: nothing beside itself, by hand beside another, and what is refused."""

from __future__ import annotations

import fuzz
import numpy as np
import pandas as pd
import pytest
import torch

import labkit as lk

RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(5, 60, int(n)).tolist() for n in RNG.integers(6, 14, 8)]


@pytest.fixture
def other(tiny_lab: lk.Lab) -> lk.Lab:
    model = fuzz.tiny_model().eval()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(3)
    return lk.Lab(model, tiny_lab.tokenizer, name="other")


@pytest.mark.parametrize(
    "measure", ["loss", "accuracy", "entropy", "bits_per_byte", lambda lab, text: lab.trace(text).loss[1:].sum()]
)
def test_a_model_beside_itself_differs_by_exactly_nothing(tiny_lab: lk.Lab, measure: object) -> None:
    found = lk.compare(tiny_lab, tiny_lab, measure, TEXTS, draws=50)
    assert (found["difference"] == 0).all()
    assert (found["low"] == 0).all()
    assert (found["high"] == 0).all()
    assert np.isfinite(found["value"]).all()


def test_loss_entropy_and_accuracy_by_hand(tiny_lab: lk.Lab, other: lk.Lab) -> None:
    for measure in ("loss", "entropy", "accuracy"):
        row = lk.compare(tiny_lab, other, measure, TEXTS, draws=20).iloc[0]
        for lab, name in ((tiny_lab, "value"), (other, "other")):
            found = []
            for ids in TEXTS:
                logits = lab.model(torch.tensor([ids])).logits[0].detach()[:-1].double()
                logs, target = logits.log_softmax(-1), torch.tensor(ids[1:])
                found.append(
                    {
                        "loss": -logs.gather(1, target[:, None])[:, 0],
                        "entropy": -(logs.exp() * logs).sum(-1),
                        "accuracy": (logs.argmax(-1) == target).double(),
                    }[measure]
                )
            assert row[name] == pytest.approx(float(torch.cat(found).mean()), abs=1e-5)
        assert row["difference"] == pytest.approx(row["other"] - row["value"], abs=1e-12)


def test_the_interval_is_of_the_paired_difference(tiny_lab: lk.Lab) -> None:
    """A measure that differs by the same 1 for each text has an interval of no width, however much texts differ."""
    change = {"now": 0.0}

    def measure(_lab: object, text: object) -> float:
        return 100.0 * len(text) + change["now"]  # type: ignore[arg-type]

    class Turned:
        def __enter__(self) -> None:
            change["now"] = 1.0

        def __exit__(self, *_: object) -> None:
            change["now"] = 0.0

    found = lk.compare(tiny_lab, Turned(), lambda _lab, _text: change["now"], TEXTS)
    assert "an interval without a width says that all texts drawn differ by the same" in repr(found)
    assert not lk.compare(tiny_lab, tiny_lab, measure, TEXTS).notes
    row = lk.compare(tiny_lab, Turned(), measure, TEXTS).iloc[0]
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((1.0, 1.0, 1.0), abs=1e-9)
    assert change["now"] == 0.0


def test_intervals_hold_the_truth_as_often_as_they_say(tiny_lab: lk.Lab) -> None:
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        numbers = iter(rng.normal(0.0, 1.0, 60).tolist())
        row = lk.compare(
            tiny_lab,
            tiny_lab,
            lambda _l, _t, n=numbers: next(n),
            [[5, 6, 7 + i] for i in range(30)],
            draws=200,
            seed=seed,
        ).iloc[0]
        held += row["low"] <= 0 <= row["high"]
    assert 86 <= held <= 99


def test_a_text_that_occurs_twice_counts_once(tiny_lab: lk.Lab, other: lk.Lab) -> None:
    once, twice = (lk.compare(tiny_lab, other, texts=texts, draws=50) for texts in (TEXTS, TEXTS + TEXTS[:3]))
    assert once.table.equals(twice.table)
    assert twice.documents == 8
    assert "3 texts stood there before and were left out" in str(twice)
    with pytest.raises(lk.BadInput, match="All texts of kind 'b' stand in an earlier kind"):
        lk.compare(tiny_lab, other, texts={"a": TEXTS, "b": TEXTS[:2]})


def test_numbers_that_are_missing_for_some_texts_are_left_out_for_both(tiny_lab: lk.Lab, other: lk.Lab) -> None:
    """A vector with a NaN: index 0 for each text, index 2 for two of them, and of one model alone for a third."""

    def measure(lab: lk.Lab, text: object) -> torch.Tensor:
        loss = lab.trace(text).loss[:4].clone()
        loss[2] = float("nan") if text in TEXTS[:2] or (lab is other and text == TEXTS[2]) else loss[2]
        return loss

    found = lk.compare(tiny_lab, other, measure, TEXTS, draws=200).table
    assert found["documents"].tolist() == [0, 8, 5, 8]
    assert found.iloc[0][["value", "other", "difference", "low", "high"]].isna().all()
    for index, texts in ((1, TEXTS), (2, TEXTS[3:]), (3, TEXTS)):
        for lab, name in ((tiny_lab, "value"), (other, "other")):
            by_hand = np.mean([float(lab.trace(text).loss[index]) for text in texts])
            assert found.iloc[index][name] == pytest.approx(by_hand, abs=1e-6)
        assert found.iloc[index]["low"] <= found.iloc[index]["difference"] <= found.iloc[index]["high"]
    said = str(lk.compare(tiny_lab, other, measure, TEXTS, draws=10))
    assert "8 texts have no number (NaN) in some rows" in said
    with pytest.raises(lk.BadInput, match="gave infinity"):
        lk.compare(tiny_lab, other, lambda _lab, _text: np.array([1.0, np.inf]), TEXTS)


def test_vectors_tables_and_all_texts_at_once(tiny_lab: lk.Lab, other: lk.Lab) -> None:
    norms = lk.compare(
        tiny_lab,
        other,
        lambda lab, text: [float(lab.trace(text, keep="residual").residual(i).norm()) for i in (0, 1)],
        TEXTS,
    )
    assert norms["index"].tolist() == [0, 1]
    assert norms["difference"][0] == 0
    assert norms["difference"][1] != 0

    def table(lab: lk.Lab, text: object) -> pd.DataFrame:
        return pd.DataFrame({"layer": [0, 1], "name": ["a", "b"], "size": [1.5, float(len(lab.trace(text).ids))]})

    found = lk.compare(tiny_lab, other, table, {"one": TEXTS[:5], "two": TEXTS[5:]})
    assert list(found.columns) == [
        "kind",
        "layer",
        "name",
        "column",
        "value",
        "other",
        "difference",
        "low",
        "high",
        "documents",
    ]
    assert found["kind"].tolist() == ["one"] * 2 + ["two"] * 2 + ["all"] * 2
    assert found["low"].isna().tolist() == [False, False, True, True, True, True], "a kind of three has no interval"
    several = lk.compare(tiny_lab, other, lambda lab, texts: [float(len(t)) for t in texts], TEXTS, together=True)
    assert several["value"][0] == pytest.approx(np.mean([len(t) for t in TEXTS]))
    once = lk.compare(tiny_lab, other, lambda lab, texts: float(len(texts)), TEXTS, together=True)
    assert np.isnan(once["low"][0])
    assert "no interval" in repr(once)


def test_texts_without_a_token_to_predict_are_not_counted(tiny_lab: lk.Lab, other: lk.Lab) -> None:
    texts = [TEXTS[0], TEXTS[1], *([5], [6], [7], [8])]
    found = lk.compare(tiny_lab, other, "loss", texts)
    plain = lk.compare(tiny_lab, other, "loss", TEXTS[:2])
    pd.testing.assert_frame_equal(found.table, plain.table)
    assert found.documents == 2
    assert np.isnan(found["low"][0])
    with pytest.raises(lk.BadInput, match="No text of kind 'short' has a token to predict"):
        lk.compare(tiny_lab, other, "loss", {"long": TEXTS[:2], "short": [[5], [6]]})


def test_an_edit_and_an_adapter_stand_for_a_model(tiny_lab: lk.Lab) -> None:
    edited = lk.compare(tiny_lab, tiny_lab.edit(lk.ablate_head(0, 1)), "loss", TEXTS)
    with tiny_lab.edit(lk.ablate_head(0, 1)):
        inside = lk.compare(tiny_lab, tiny_lab, "loss", TEXTS)["value"][0]
    assert edited["other"][0] == inside != edited["value"][0]

    class Adapter:
        lab, name = tiny_lab, "notes"

        def on(self) -> object:
            return tiny_lab.edit(lk.ablate_head(0, 1))

    tuned = lk.compare(tiny_lab, Adapter(), "loss", TEXTS)
    assert tuned["other"][0] == inside
    assert "with notes" in repr(tuned)


def test_tokenizers_that_differ_are_compared_by_bytes_alone(tiny_lab: lk.Lab) -> None:
    tokenizer = fuzz.tiny_tokenizer()
    tokenizer.add_tokens(["labkitten"])
    stranger = lk.Lab(fuzz.tiny_model().eval(), tokenizer, name="stranger")
    texts = ["a few words of a text", "another text", "and more of it", "words again", "one more"]
    with pytest.raises(lk.BadInput, match='loss a token can\'t be compared; take measure="bits_per_byte"'):
        lk.compare(tiny_lab, stranger, "loss", texts)
    with pytest.raises(lk.BadInput, match="say comparable=True"):
        lk.compare(tiny_lab, stranger, lambda lab, text: 1.0, texts)
    with pytest.raises(lk.BadInput, match="token ids and messages mean another text"):
        lk.compare(tiny_lab, stranger, "bits_per_byte", TEXTS)
    assert lk.compare(tiny_lab, stranger, lambda lab, text: 1.0, texts, comparable=True)["difference"][0] == 0
    found = lk.compare(tiny_lab, stranger, "bits_per_byte", texts)
    assert found["value"][0] > 0


def test_what_cannot_be_compared_is_refused(tiny_lab: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match=r"measure='los' is no measure .*did you mean 'loss'"):
        lk.compare(tiny_lab, tiny_lab, "los", TEXTS)
    with pytest.raises(lk.BadInput, match="this is none of them: 5"):
        lk.compare(tiny_lab, 5, "loss", TEXTS)
    with pytest.raises(lk.BadInput, match="let it give the same for each text"):
        lk.compare(tiny_lab, tiny_lab, lambda lab, text: [1.0] * len(text), TEXTS)
    with pytest.raises(lk.BadInput, match="let it give a number, a vector, or a table"):
        lk.compare(tiny_lab, tiny_lab, lambda lab, text: "much", TEXTS)
    with pytest.raises(lk.BadInput, match="finite number"):
        lk.compare(tiny_lab, tiny_lab, lambda lab, text: float("nan"), TEXTS)
    with pytest.raises(lk.BadInput, match="There is no text"):
        lk.compare(tiny_lab, tiny_lab, "loss", [])
    with pytest.raises(ZeroDivisionError):
        lk.compare(tiny_lab, tiny_lab, lambda lab, text: 1 / 0, TEXTS)
