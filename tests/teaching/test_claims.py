"""The ledger: complete, and true wherever it can be computed again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import labkit as lk
from labkit.attention import LiveBytes
from labkit.teaching import claims
from labkit.teaching.claims import compute
from labkit.teaching.series import NOTEBOOKS

IDS = [
    "gqa-40", "llama-40-faster", "seven-b-72h", "falcon-256", "mixtral-20", "moe-roles", "lora-small", "neftune",
    "qwen-alibi", "gptq-75-2x", "int4-phone", "phi3-85", "flash-memory", "matrix-hardware", "rope-one-line", "yarn-128k",
    "json-for-free", "spec-decoding", "small-beats-giant", "drift", "harder-to-squeeze", "prune-blind", "sae-roles",
    "golden-gate", "alignment-tax", "ternary", "schedule-free", "vllm-paging", "language-tax", "temperature-0",
    "layer-11-broken", "long-context-replaces-rag", "dit-moe",
]  # fmt: skip


def test_the_ledger_is_complete() -> None:
    rows = claims.ledger()
    assert list(rows) == IDS
    for row in rows.values():
        assert row.outcome in claims.OUTCOMES
        assert row.kind in {"exact", "measured", "time"}
        assert row.notebook in NOTEBOOKS.values()
        assert row.stated.endswith(".")
        assert row.how.endswith(".")
        # what can't be tested may still have the number of the nearest thing that can
        assert row.outcome == "untestable" or (row.value is None) == (row.outcome == "open"), row.id
        assert (row.recorded is not None) == (row.kind == "time" and row.value is not None), row.id
        assert (row.value is not None) == (row.id in compute.COMPUTE), row.id
        if row.recorded:
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", row.recorded["date"])
            assert "torch" in row.recorded["machine"]
    assert rows["phi3-85"].outcome == "untestable"


ON_THE_DEFAULT_MODEL = {"golden-gate", "language-tax", "layer-11-broken"}


@pytest.mark.parametrize(
    "id",
    [
        pytest.param(id, marks=[pytest.mark.real_model] if id in ON_THE_DEFAULT_MODEL else [])
        for id, row in claims.ledger().items()
        if row.value is not None and row.kind != "time"
    ],
)
def test_the_ledger_says_what_is_computed(id: str) -> None:
    row, computed = claims.ledger()[id], compute.COMPUTE[id]()
    assert claims.same(computed.value, row.value or 0.0, row.tolerance)
    assert computed.comparison == row.comparison, "labkit claims --record writes it"
    assert lk.claim(id, computed.value).agrees is True


def test_outcomes_follow_from_the_numbers() -> None:
    rows = claims.ledger()
    assert rows["gqa-40"].outcome == ("held" if rows["gqa-40"].value == 40 else "refuted")
    grows = rows["flash-memory"].value
    assert grows is not None
    assert rows["flash-memory"].outcome == ("held" if grows < 1.5 else "refuted")
    assert "to the power 1.00 in tiles, 2.00 all at once" in rows["flash-memory"].comparison
    assert rows["qwen-alibi"].outcome == ("held" if rows["qwen-alibi"].value else "refuted")
    assert "which has ALiBi, does in every head (R² 1.0000)" in rows["qwen-alibi"].comparison, "the look finds it"
    assert rows["mixtral-20"].outcome == ("held" if round(rows["mixtral-20"].value or 0) == 20 else "refuted")
    named = rows["moe-roles"].value
    assert named is not None
    assert rows["moe-roles"].outcome == ("held" if named > 192 / 2 else "refuted")  # a purpose for each
    added = [float(n) for n in re.findall(r"(\d\.\d\d)", rows["prune-blind"].comparison)]
    measured, usage, any_ = added
    assert rows["prune-blind"].value == measured
    assert rows["prune-blind"].outcome == ("refuted" if measured < 0.8 * any_ else "held")
    assert usage > measured, "counting is blind, measuring is not"
    assert rows["int4-phone"].outcome == ("held" if (rows["int4-phone"].value or 0) > 3 else "refuted")
    early, low_early, high_early, late, low_late, high_late = (
        float(n) for n in re.findall(r"\d\.\d{3}", rows["harder-to-squeeze"].comparison)
    )
    assert rows["harder-to-squeeze"].outcome == ("held" if low_late > high_early else "refuted")
    assert low_early < early < high_early
    assert low_late < late < high_late
    saved = float(re.findall(r"(\d+\.\d) % smaller", rows["gptq-75-2x"].comparison)[0])
    assert rows["gptq-75-2x"].outcome == ("held" if saved >= 75 and (rows["gptq-75-2x"].value or 0) >= 2 else "refuted")
    through, *_, after, tiny, narrow, wide = (float(n) for n in re.findall(r"\d\.\d\d\b", rows["ternary"].comparison))
    assert rows["ternary"].outcome == ("held" if wide < narrow < tiny and through < after else "refuted")
    texts = rows["golden-gate"].value
    assert texts is not None
    assert rows["golden-gate"].outcome == ("held" if texts > 50 else "refuted")  # of a hundred, at the best strength
    stated, _, low, high, plain, chance, pushed, means = (
        int(n) for n in re.findall(r"(\d+) %", rows["golden-gate"].comparison.replace(" to ", " % to "))
    )
    assert low <= texts == stated <= high
    assert plain <= chance < texts, "beside no steering and a random feature"
    assert max(pushed, means) <= 100
    told = rows["sae-roles"].value
    assert told is not None
    assert rows["sae-roles"].outcome == ("held" if told > 32 / 2 else "refuted")  # one feature for each
    costs, low, high, first, later = (
        float(n) for n in re.findall(r"\d\.\d\d\b", rows["layer-11-broken"].comparison)[:5]
    )
    assert costs == rows["layer-11-broken"].value
    assert first + later == pytest.approx(costs, abs=0.011)
    assert low < costs < high
    assert rows["layer-11-broken"].outcome == ("held" if low <= 0 else "refuted")  # nobody would miss a broken layer
    masked = rows["json-for-free"].comparison
    assert (
        f"{round(20 * (rows['json-for-free'].value or 0))} of 20 (76 to 99 %) answers are valid with the mask" in masked
    )
    assert rows["json-for-free"].outcome == ("held" if rows["json-for-free"].value == 1 else "refuted")  # a guarantee
    faster = [float(n) for n in re.findall(r"(\d\.\d\d) times as fast", rows["spec-decoding"].comparison)]
    assert rows["spec-decoding"].value == faster[-1], "of plain text, the last one told"
    assert rows["spec-decoding"].outcome == ("held" if min(faster) > 1 else "refuted")
    answers = [int(n) for n in re.findall(r"(\d+)(?=, \d| in (?:float32|bfloat16))", rows["temperature-0"].comparison)]
    assert rows["temperature-0"].value == max(answers)
    assert rows["temperature-0"].outcome == ("held" if max(answers) == 1 else "refuted")
    refused = [tuple(map(int, pair)) for pair in re.findall(r"(\d+) of (\d+)", rows["alignment-tax"].comparison)]
    edgy_before, plain_before, edgy, plain, alike, ablated = (some / of for some, of in refused)
    assert rows["alignment-tax"].value == round(100 * (plain - plain_before), 1)
    # the one model that others aligned refuses nothing, and the one that does was taught to
    assert edgy_before == plain_before == 0
    assert rows["alignment-tax"].outcome == "untestable"
    assert edgy_before <= ablated < plain < edgy <= alike
    tokens = rows["seven-b-72h"].value
    assert tokens is not None
    assert rows["seven-b-72h"].outcome == ("held" if tokens >= 2000 else "refuted")  # billions, as it was trained on
    assert rows["falcon-256"].outcome == ("held" if (rows["falcon-256"].value or 0) < 1 else "refuted")
    cards = re.findall(r"(\S+) (\d+), (\d+) and (\d+) \((\d+) stated\)", rows["matrix-hardware"].comparison)
    assert rows["matrix-hardware"].value == int(cards[0][1])
    as_stated = {model: stated in bits for model, *bits, stated in cards}
    assert rows["matrix-hardware"].outcome == ("held" if all(as_stated.values()) else "refuted")
    assert all(int(whole) >= int(half) >= int(quarter) for _, whole, half, quarter, _ in cards)
    dearer, of = map(int, re.findall(r"in (\d+) of (\d+) languages", rows["language-tax"].comparison)[0])
    assert rows["language-tax"].outcome == ("held" if dearer == of else "refuted")
    assert f"{rows['language-tax'].value:.2f} times as many in the median one" in rows["language-tax"].comparison


def test_the_notebook_runs_the_experiment_of_the_ledger() -> None:
    """Sentences, openings and strengths of notebook 07 are those the ledger's number comes from."""
    from labkit.teaching.claims import autoencoders as own

    source = Path(__file__).parents[2] / "notebooks" / "source" / "07_sparse_autoencoders.py"
    text = source.read_text(encoding="utf-8")
    for sentence in (*own.ABOUT, *own.OTHER, *own.PROMPTS):
        assert f'    "{sentence}",' in text
    assert f"    {own.STRENGTHS}," in text
    assert f"    tokens={own.TOKENS}," in text
    assert f'search(lab, sae, "{own.WORDS}", k=3)' in text


def test_a_claim_side_by_side_writes_nothing() -> None:
    before = claims.LEDGER.read_bytes()
    shown = lk.claim("gqa-40", torch.tensor(87.5), note="at 4,096 tokens")
    assert repr(shown) == (
        "gqa-40\n"
        "    stated  Sharing keys and values between heads cuts LLaMA 2's KV cache by 40 %.\n"
        "  computed  87.5 % of the cache, 70B (at 4,096 tokens)\n"
        "    ledger  refuted: it does not hold; saved of the cache: 0 % in 7B, 0 % in 13B, 87.5 % in 70B; 40 % in none of them"
    )
    wrong = lk.claim("gqa-40", 40)
    assert wrong.agrees is False
    assert "the ledger has 87.5 %" in repr(wrong)
    timed = lk.claim("llama-40-faster", 1000)
    assert timed.agrees is None
    assert "differs" not in repr(timed)
    assert "taken 20" in repr(timed)
    assert lk.claim("vllm-paging", 3).agrees is None
    nothing = lk.claim("phi3-85")
    assert nothing.value is nothing.agrees is None
    assert "computed  nothing" in repr(nothing)
    with pytest.raises(lk.BadInput, match="takes a number"):
        lk.claim("gqa-40")  # one that can be tested
    assert "<b>" not in lk.claim("gqa-40", 1, note="<b>")._repr_html_()
    assert claims.LEDGER.read_bytes() == before
    with pytest.raises(lk.BadInput, match="did you mean gqa-40"):
        lk.claim("gqa40", 1)
    for bad in ("many", None, True, torch.zeros(2)):
        with pytest.raises(lk.BadInput):
            lk.claim("gqa-40", bad)


def test_record_writes_what_it_computes_and_keeps_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = tmp_path / "ledger.json"
    ledger.write_text(claims.LEDGER.read_text(encoding="utf-8").replace("87.5", "12.5"), encoding="utf-8")
    original = claims.LEDGER.read_bytes()
    monkeypatch.setattr(claims, "LEDGER", ledger)
    assert lk.claim("gqa-40", 87.5).agrees is False
    (row,) = claims.record(["gqa-40"])
    assert row.value == 87.5
    assert ledger.read_bytes() == original
    with pytest.raises(lk.BadInput, match="Nothing computes"):
        claims.record(["vllm-paging"])
    assert [row["id"] for row in json.loads(ledger.read_text(encoding="utf-8"))] == IDS


def test_both_attentions_agree_and_live_bytes_are_counted() -> None:
    q, k, v = torch.randn(3, 150, 16, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.allclose(compute.full_attention(q, k, v), compute.tiled_attention(q, k, v, 32), atol=1e-6)
    with LiveBytes() as live:
        a = torch.zeros(1000)  # 4,000 bytes
        b = a + 1
        assert live.now == 8000
        b.add_(1)
        view = b[:10]
        assert live.now == 8000, "views and writing in place take nothing"
        del a
        assert live.now == 4000
        del b
        assert live.now == 4000, "a view keeps its storage"
        del view
        assert (live.now, live.peak) == (0, 8000)


def test_the_timed_layers_are_of_one_size_and_compute_attention() -> None:
    assert compute.MULTI_HEAD.parameters == compute.GROUPED.parameters
    shape = compute.Shape(32, 4, 2, 16)
    layer = compute.DecodeLayer(shape, 5, torch.Generator().manual_seed(0))
    x = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    out = layer.step(x)
    query = (x @ layer.q.T).view(4, 8)
    mixed = [torch.softmax(layer.keys[0, h // 2] @ query[h] / 8**0.5, 0) @ layer.values[0, h // 2] for h in range(4)]
    y = x + torch.cat(mixed)[None] @ layer.o.T
    gate = y @ layer.gate.T
    expected = y + (gate * gate.sigmoid() * (y @ layer.up.T)) @ layer.down.T
    assert torch.allclose(out, expected, atol=1e-5)
    assert torch.allclose(layer.keys[0, :, -1], (x @ layer.k.T).view(2, 8))
    counted = sum(w.numel() for w in (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down))
    assert counted == shape.parameters


def test_positions_in_one_line_are_judged_by_what_they_do_beyond_the_trained_length() -> None:
    rows = claims.ledger()
    one, yarn = rows["rope-one-line"], rows["yarn-128k"]
    assert one.value is not None
    assert yarn.value is not None
    assert (one.outcome == "refuted") == (one.value > 0), "interpolation is to be no better than positions as they are"
    assert yarn.outcome == "untestable"
    assert yarn.value < 0 < one.value
    found = lk.context.recorded("labkit-moe")
    linear = found[(found["kind"] == "linear") & (found["position_to"] == 4_095)].iloc[0]
    assert one.value == pytest.approx(linear["change"])
    assert linear["change"] == pytest.approx(
        linear["loss"] - found[(found["kind"] == "default") & (found["position_to"] == 4_095)].iloc[0]["loss"]
    )
