"""What finding and measuring circuits costs: said beforehand, kept within a bound, and kept where an interrupt ends it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.circuits import find
from labkit.circuits.edges import Edges
from labkit.circuits.measuring import spread
from labkit.circuits.rewiring import rows_needed

CLEAN, OTHER = [5, 17, 33, 8, 91, 42, 17], [5, 17, 34, 9, 90, 43, 18]
PAIRS = [(CLEAN, OTHER), (CLEAN[:5], OTHER[:5]), (CLEAN[::-1], OTHER[::-1])]
QUIET: dict[str, Any] = {"progress": False}


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1, 7] - logits[-1, 40]


@pytest.fixture
def lab() -> lk.Lab:
    return lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="llama3")


class Counted:
    """Tokens that went through a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.tokens = 0
        model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, _module: torch.nn.Module, _args: Any, given: dict[str, Any]) -> None:
        self.tokens += given["input_ids"].numel()


# rows that inputs of the same share -----------------------------------------------------------------------------------


def test_few_edges_take_few_rows_and_all_give_what_they_give_alone(lab: lk.Lab) -> None:
    circuit = find(lab, [(CLEAN, OTHER)], metric, "attribution", "edges", **QUIET)
    edges = circuit._study.parts
    assert isinstance(edges, Edges)
    assert [rows_needed(edges, np.arange(size)) for size in (0, edges.size)] == [1, 1]
    assert {rows_needed(edges, np.array([number])) for number in range(edges.size)} == {1, 2}
    rng = np.random.default_rng(0)
    sets = [rng.choice(edges.size, size, replace=False) for size in (1, 5, 40, edges.size // 2, edges.size - 3)]
    assert rows_needed(edges, sets[3]) == 11, "of 12 inputs of 4 heads two read the same"
    together, _ = circuit._study.values("clean", sets)
    alone = [circuit._study.values("clean", [one])[0][0, 0] for one in sets]
    np.testing.assert_allclose(together[0], alone, atol=1e-5)
    assert np.ptp(together) > 1e-3


# by size --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", ["heads", "edges"])
def test_measuring_runs_no_more_tokens_than_it_may(lab: lk.Lab, parts: Any) -> None:
    circuit = find(lab, PAIRS, metric, "attribution", parts, **QUIET)
    counted = Counted(lab.model)
    circuit.by_size(most=None, **QUIET)
    whole, counted.tokens = counted.tokens, 0
    few = circuit.by_size(most=whole // 2, **QUIET)
    assert counted.tokens <= 1.25 * whole / 2, "sets of other numbers of rows share a pass"
    assert 5 <= few.draws < 20
    assert few.pairs == 3
    assert f"{few.draws} random graphs of each size instead of 20" in str(few)
    counted.tokens = 0
    fewest = circuit.by_size(most=whole // 20, **QUIET)
    assert (fewest.draws, fewest.pairs) == (5, 1)
    assert fewest["oracle"].isna().all()
    assert "no oracle" in str(fewest)
    assert "the first 1 of 3 pairs" in str(fewest)
    alone = find(lab, PAIRS[:1], metric, "attribution", parts, **QUIET)
    own = [alone.keeping([node.id for node in circuit.graph.nodes[:2]]) if parts == "heads" else None]
    assert own[0] is None or fewest.table.set_index("size")["faithfulness"][2] == pytest.approx(own[0], abs=1e-5)


def test_what_was_asked_for_is_measured_whatever_it_costs(lab: lk.Lab) -> None:
    found = find(lab, PAIRS, metric, **QUIET).by_size([1, 4], draws=9, oracle=True, most=1, **QUIET)
    assert (found.draws, found.pairs, found.notes) == (9, 3, ())
    assert found["oracle"].notna().all()


def test_sizes_of_many_parts_are_few() -> None:
    assert spread(10, 10) == [1, 2, 4, 8, 10]
    assert spread(123_211, 123_211) == [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 123_211]
    assert spread(30, 5_000) == [1, 4, 16, 30, 5_000]


# exact patching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"parts": "neurons", "most": 500}, r"neurons of llama3 exactly takes 288 runs, 1,824 tokens in all.*top=26 "),
        (
            {"parts": "edges", "most": 999},
            r"edges of llama3 exactly takes .*top=\d+ .*fewer pairs, method='eap-ig' or most",
        ),
        ({"parts": "heads", "most": 10}, "at most 10 are run unasked; give fewer pairs"),
        ({"parts": "heads", "top": 11}, "top=11 can't be used; give a whole number from 1 to 10"),
        ({"parts": "heads", "method": "eap-ig", "top": 3}, "top=3 goes with method='exact'"),
        ({"parts": "heads", "most": 0}, "most=0"),
    ],
)
def test_what_would_take_too_long_is_refused_before_anything_is_patched(
    lab: lk.Lab, settings: dict[str, Any], said: str
) -> None:
    given = {"method": "exact", **QUIET} | settings
    with pytest.raises(lk.BadInput, match=said):
        find(lab, PAIRS, metric, **given)


@pytest.mark.parametrize("parts", ["neurons", "edges"])
def test_the_strongest_by_attribution_are_patched_alone(lab: lk.Lab, parts: Any) -> None:
    whole = find(lab, PAIRS, metric, "exact", parts, most=None, **QUIET)
    by_gradient = find(lab, PAIRS, metric, "attribution", parts, **QUIET)
    few = find(lab, PAIRS, metric, "exact", parts, top=12, **QUIET)
    assert len(few) == few.ranked == 12
    assert set(few._order[:12]) == set(by_gradient._order[:12])
    np.testing.assert_allclose(few._effects[few._order[:12]], whole._effects[few._order[:12]], atol=1e-5)
    assert few["effect"].abs().is_monotonic_decreasing
    assert few._order[12:].tolist() == [n for n in by_gradient._order if n not in set(few._order[:12])]
    assert "12 of" in str(few)
    assert few.by_size(draws=1, **QUIET)["size"].tolist() == [1, 2, 4, 8, 12, few._study.parts.size]
    with pytest.raises(lk.BadInput, match="size=13 can't be used, since 12 of"):
        few.by_size([13], **QUIET)
    with pytest.raises(lk.BadInput, match="12 parts were patched"):
        few.keeping(13)
    assert np.isfinite([node.effect for node in few.graph.nodes]).all()


@pytest.mark.parametrize("parts", ["neurons", "edges"])
def test_an_interrupt_keeps_the_parts_that_were_patched_on_all_pairs(lab: lk.Lab, parts: Any) -> None:
    whole = find(lab, PAIRS, metric, "exact", parts, most=None, **QUIET)
    calls = [0]

    def stopping(logits: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 300:
            raise KeyboardInterrupt
        return metric(logits)

    found = find(lab, PAIRS, stopping, "exact", parts, most=None, **QUIET)
    assert found.interrupted
    assert 32 <= found.ranked < whole.ranked
    assert found.ranked % 32 == 0
    np.testing.assert_allclose(found._effects[: found.ranked], whole._effects[: found.ranked], atol=1e-5)
    assert np.isnan(found._effects[found.ranked :]).all()
    assert len(found) == found.ranked
    assert "interrupted" in str(found)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lab.model.modules())


def test_gradients_show_how_far_they_are(lab: lk.Lab, capsys: pytest.CaptureFixture[str]) -> None:
    find(lab, PAIRS, metric, parts="edges", steps=4)
    said = capsys.readouterr().err
    assert "taking gradients: 100%" in said
    assert "12/12" in said
    find(lab, PAIRS, metric, "attribution", **QUIET)
    assert not capsys.readouterr().err
