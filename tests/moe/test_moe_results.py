"""What the measures of this room return: the table, its levels of chance, copies, few documents, drawings of some rows."""

from __future__ import annotations

import copy
import html
import pickle
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from labkit import moe
from labkit.moe.routing import Routing
from labkit.results import Result
from labkit.views.specialisation_chart import specialisation as chart

N_EXPERTS, K = 6, 2
HOSTILE = "<img src=x onerror=alert(1)>"


def routes(documents: tuple[int, ...] = (12, 12), each: int = 30, untrained: int = 3, model: str = "m") -> Routing:
    """`documents` of each kind; experts follow the kind of text somewhat."""
    rng = np.random.default_rng(0)
    kind_of = np.repeat(np.arange(len(documents)), documents)
    document = np.repeat(np.arange(len(kind_of)), each)
    ids = rng.integers(0, 12, len(document))

    def chosen(follow: float) -> np.ndarray:
        scores = rng.normal(size=(len(document), 2, N_EXPERTS))
        scores += follow * np.eye(N_EXPERTS)[kind_of[document]][:, None]
        return np.argsort(-scores, -1)[..., :K].astype(np.uint8)

    experts = chosen(2.0)
    others = np.stack([chosen(0.0) for _ in range(untrained)]) if untrained else None
    return Routing(
        ids=ids,
        document=document,
        kind_of=kind_of,
        kinds=tuple("abcd"[: len(documents)]),
        experts=experts,
        weights=np.full(experts.shape, 0.5, np.float32),
        loss=np.zeros(len(document), np.float32),
        untrained=others,
        layers=(0, 2),
        n_experts=N_EXPERTS,
        model=model,
        tokens={int(i): f"t{i}" for i in np.unique(ids)},
        notes=("2 documents were cut.",),
    )


MEASURES: dict[str, Any] = {
    "load": lambda r: moe.load(r, draws=50),
    "balance": lambda r: moe.balance(r, draws=50),
    "specialisation": lambda r: moe.specialisation(r, draws=50),
    "coactivation": lambda r: moe.coactivation(r, draws=50),
    "information": lambda r: moe.information(r, draws=10),
    "roles": lambda r: moe.roles(r, draws=5),
    "vocabulary": lambda r: moe.vocabulary(r, least=5, least_documents=1, draws=10),
    "saturation": lambda r: moe.saturation({0: r.experts, 1: r.experts}, document=r.document, draws=20),
}


@pytest.fixture(scope="module")
def routing() -> Routing:
    return routes()


@pytest.mark.parametrize("name", MEASURES)
def test_results_hold_a_table_are_shown_and_survive_copies(routing: Routing, name: str) -> None:
    found = MEASURES[name](routing)
    assert isinstance(found, Result)
    assert type(found).__name__ == name.capitalize()
    assert isinstance(found.table, pd.DataFrame)
    assert list(found) == list(found.table.columns)
    assert not found.table.attrs
    assert repr(found).count("\n") > 3
    if name != "saturation":
        assert "2 documents were cut." in repr(found)
        assert (found.model, found.documents, found.seed) == ("m", 24, 0)
    for again in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        pd.testing.assert_frame_equal(again.table, found.table)
        assert repr(again) == repr(found)
        assert [f.name for f in fields(again)] == [f.name for f in fields(found)]
    if name != "saturation":
        page = replace(found, model=HOSTILE, notes=(HOSTILE,))._repr_html_()
        assert page is not None
        assert "<img" not in page
        assert page.count("&lt;img") == 2


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("documents", [(1,), (12,), (12, 0), (12, 1), (1, 1)], ids=str)
def test_few_documents_say_so_and_do_not_break(name: str, documents: tuple[int, ...]) -> None:
    """One document, one kind, a kind without any: numbers that can't be are missing, and nothing is raised."""
    routing = routes(documents)
    if sum(documents) == 1:
        routing = replace(routing, untrained=None)
    found = MEASURES[name](routing)
    assert len(found)
    assert repr(found)
    assert found._repr_html_()
    if name == "information" or (name == "roles" and len(documents) > 1 and documents[0] == 1):
        assert found.table.filter(like="information").isna().all(axis=None)
        assert (found["note"] != "").all()


def test_stand_out_is_shown_with_what_chance_gives(routing: Routing) -> None:
    found = moe.specialisation(routing, draws=50)
    counted = found.stand_out["untrained_largest"]
    assert counted["found"] > counted["by_chance"]
    line = f"above untrained_largest: {counted['found']:g}; of an untrained router's {counted['by_chance']:.1f}"
    assert line in repr(found)
    assert html.escape(line) in found._repr_html_()
    alone = moe.specialisation(replace(routing, untrained=None), draws=50)
    assert "untrained router" not in repr(alone)


def test_some_rows_are_drawn_with_the_chance_of_the_whole(routing: Routing) -> None:
    found = moe.specialisation(routing, draws=50)
    some = found[found["layer"] == 2]
    assert isinstance(some, moe.Specialisation)
    assert some.stand_out_by_layer == found.stand_out_by_layer
    title = chart(some).layout.title.text
    assert "of an untrained router's" in title
    assert "of an untrained router's" not in chart(found.table[found["layer"] == 2]).layout.title.text


def test_what_information_can_be_stands_beneath_it(routing: Routing) -> None:
    found = moe.information(routing, draws=10)
    assert found.kind == pytest.approx(1)
    lines = [line.split() for line in repr(found).splitlines()]
    (most,) = [line for line in lines if line[:2] == ["at", "most"]]
    assert float(most[2]) == pytest.approx(found.kind, abs=1e-6)


def test_an_even_load_stands_beneath_the_balance(routing: Routing) -> None:
    found = moe.balance(routing, draws=20)
    assert found.most_entropy == pytest.approx(np.log2(N_EXPERTS))
    assert found["entropy"].max() < found.most_entropy
    assert "even load" in repr(found)


def test_a_router_that_never_varies(routing: Routing) -> None:
    """Constant columns: the same experts for every token."""
    same = replace(routing, experts=np.zeros_like(routing.experts) + np.arange(K, dtype=np.uint8), untrained=None)
    assert moe.load(same, draws=20)["load"].nunique() == 2
    assert moe.balance(same, draws=20)["entropy"].tolist() == pytest.approx([1, 1])
    assert moe.information(same, draws=5)["information"].tolist() == pytest.approx([0, 0])
    assert moe.roles(same, draws=5)["share"].notna().all()
    found = moe.coactivation(same, draws=20)
    assert repr(found)
    assert found.pairs is found.table


def test_own_domain_is_a_result() -> None:
    rng = np.random.default_rng(0)
    rows = [(layer, expert, kind) for layer in (0, 1) for expert in range(4) for kind in ("a", "b")]
    table = pd.DataFrame(rows, columns=["layer", "expert", "kind"])
    effects = table.assign(loss_change=rng.normal(size=len(table)))
    found = moe.own_domain(effects, table.assign(share=rng.random(len(table))), permutations=20)
    assert found.experts is found.table
    assert repr(found).startswith("own domain hurt most: ")
    assert pickle.loads(pickle.dumps(found)).agreement == found.agreement
