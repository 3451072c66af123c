"""Results with a table: what is shown, what is passed on to the table, and that nothing gets lost on the way."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass, replace

import numpy as np
import pandas as pd
import pytest

from labkit.results import Result, as_table

HOSTILE = "<img src=x onerror=alert(1)>$x^2$</td>"


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Result):
    uniform: Mapping[str, float]
    model: str
    tokens: int = 0
    notes: tuple[str, ...] = ()

    def _title(self) -> str:
        return f"scores of {self.model}"

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        return {"uniform": self.uniform}

    def _remarks(self) -> Sequence[str]:
        return self.notes


def scores(n: int = 3, **more) -> Scores:
    table = pd.DataFrame(
        {
            "layer": np.arange(n),
            "kind": [f"k{i}" for i in range(n)],
            "score": np.linspace(0.1, 0.9, n),
            "rest": np.full(n, 2e-7),
        }
    )
    return Scores(table, **({"uniform": {"score": 0.25}, "model": "tiny"} | more))


def test_shows_the_table_with_its_beneath_beneath():
    lines = repr(scores()).splitlines()
    assert lines[0] == "scores of tiny"
    assert lines[1].split() == ["layer", "kind", "score", "rest"]
    assert lines[2].split() == ["0", "0", "k0", "0.10", "2.000000e-07"]
    assert lines[5].split() == ["uniform", "0.25", "NaN"]
    assert lines[6:] == ["[3 rows x 4 columns]"]
    assert repr(scores(notes=("one was cut",))).endswith("\none was cut")


def test_a_long_table_is_cut_and_keeps_its_beneath():
    text = repr(scores(500))
    assert len(text.splitlines()) < 70
    assert text.splitlines()[-2].startswith("uniform")
    assert text.endswith("[500 rows x 4 columns]")
    page = scores(500)._repr_html_()
    assert "<th>uniform</th>" in page
    assert "[500 rows x 4 columns]" in page
    assert "501" not in page


def test_what_is_shown_leaves_the_table_as_it_is():
    found = scores()
    before = found.table.copy(deep=True)
    repr(found)
    found._repr_html_()
    pd.testing.assert_frame_equal(found.table, before)
    assert pd.get_option("display.show_dimensions") == "truncate"


def test_a_result_without_beneath_shows_its_table_as_pandas_does():
    @dataclass(frozen=True, eq=False, repr=False)
    class Plain(Result):
        pass

    table = scores().table
    assert repr(Plain(table)) == f"Plain\n{table!r}"
    assert table._repr_html_() in Plain(table)._repr_html_()


@pytest.mark.parametrize("n", [0, 1])
def test_small_tables_are_shown(n):
    assert "uniform" in repr(scores(n))
    assert "uniform" in scores(n)._repr_html_()
    nothing = Scores(pd.DataFrame(), uniform={"score": 0.1}, model="tiny")
    assert repr(nothing).startswith("scores of tiny\n")
    assert nothing._repr_html_().startswith("<div")
    assert len(nothing) == 0


def test_missing_values_and_constant_columns_are_shown():
    found = scores()
    found["score"] = np.nan
    found["rest"] = 1.0
    found["flag"] = True
    found["missing"] = pd.array([1, None, 3], dtype="Int64")
    found["text"] = pd.array(["a", None, "b"], dtype="string")
    found["when"] = pd.Timestamp("2026-01-01")
    found["part"] = pd.Categorical(["x", "y", "x"])
    text = repr(found)
    assert "uniform" in text
    assert "NaN" in text
    assert "<NA>" in text


def test_hostile_text_is_escaped():
    found = scores(model=HOSTILE, notes=(HOSTILE,))
    found["kind"] = HOSTILE
    page = found._repr_html_()
    assert "<img" not in page
    assert "$x^2$</td>" not in page
    assert page.count("&lt;img") == 5
    assert page.startswith('<div class="tex2jax_ignore">')


def test_pandas_may_be_told_to_draw_no_html():
    with pd.option_context("display.notebook_repr_html", False):
        assert scores()._repr_html_() is None


def test_what_it_does_not_have_is_the_tables():
    found = scores(tokens=7)
    table = found.table
    assert list(found) == list(table)
    assert len(found) == 3
    assert "score" in found
    assert "other" not in found
    assert list(found["score"]) == list(table["score"]) == list(found.score)
    assert found.shape == (3, 4)
    assert found.iloc[0]["kind"] == "k0"
    pd.testing.assert_frame_equal(found[found["score"] > 0.3].table, table[table["score"] > 0.3])
    pd.testing.assert_frame_equal(
        found.sort_values("score", ascending=False), table.sort_values("score", ascending=False)
    )
    pd.testing.assert_frame_equal(found.merge(table, on="layer"), table.merge(table, on="layer"))
    pd.testing.assert_frame_equal(found.merge(right=scores(), on="layer"), table.merge(table, on="layer"))
    assert found.groupby("kind").score.sum().to_dict() == table.groupby("kind").score.sum().to_dict()
    assert found.loc[1, "score"] == table.loc[1, "score"]
    pd.testing.assert_frame_equal(pd.concat([found.table, table]), pd.concat([table, table]))
    np.testing.assert_array_equal(np.asarray(found[["score", "rest"]]), table[["score", "rest"]].to_numpy())
    np.testing.assert_array_equal(np.asarray(found), table.to_numpy())
    with pytest.raises(AttributeError, match="neither Scores nor its table has 'nothing'"):
        found.nothing  # noqa: B018
    with pytest.raises(KeyError):
        found["nothing"]


def test_operators_are_the_tables():
    found = scores()[["layer", "score"]]
    given = Scores(found, uniform={}, model="tiny")
    for ours, theirs in [
        (given * 2, found * 2),
        (2 - given, 2 - found),
        (given - given, found - found),
        (found / given, found / found),
        (-given, -found),
        (abs(-1 * given), abs(-1 * found)),
        (round(given, 1), round(found, 1)),
        (given > 0.3, found > 0.3),
        (given >= 0.3, found >= 0.3),
        (np.float64(2) * given, np.float64(2) * found),
        (np.exp(given), np.exp(found)),
        (given == 1, found == 1),
        (given != found, found != found),
        ((given > 0.3) & (given < 2), (found > 0.3) & (found < 2)),
    ]:
        pd.testing.assert_frame_equal(ours, theirs)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(given)
    with pytest.raises(TypeError):
        given > "text"  # noqa: B015


def test_what_pandas_would_read_without_its_columns_is_refused():
    with pytest.raises(TypeError, match=r"of a Scores; give them result\.table"):
        pd.DataFrame(scores())
    with pytest.raises(TypeError):
        pd.concat([scores(), scores()])


def test_plotly_express_takes_results():
    import plotly.express as px

    drawn = px.bar(scores(), x="layer", y="score", color="kind")
    assert [(bar.name, list(bar.y)) for bar in drawn.data] == [("k0", [0.1]), ("k1", [0.5]), ("k2", [0.9])]


def test_a_field_comes_before_a_column_of_its_name():
    found = scores(tokens=7)
    found["tokens"] = 1
    assert found.tokens == 7
    assert list(found["tokens"]) == [1, 1, 1]
    del found["tokens"]
    assert "tokens" not in found


def test_fields_are_read_as_attrs_and_are_frozen():
    found = scores(tokens=7)
    assert found.attrs == {"uniform": {"score": 0.25}, "model": "tiny", "tokens": 7, "notes": ()}
    with pytest.raises(FrozenInstanceError):
        found.model = "other"
    with pytest.raises(FrozenInstanceError):
        found.table = None
    assert replace(found, model="other").model == "other"
    assert isinstance(hash(found), int)
    assert (found == scores(tokens=7)) is False


@pytest.mark.parametrize(
    "through",
    [copy.copy, copy.deepcopy, lambda found: pickle.loads(pickle.dumps(found))],
    ids=["copy", "deep", "pickle"],
)
def test_copies_keep_table_and_fields(through):
    found = scores(tokens=7)
    again = through(found)
    assert type(again) is Scores
    pd.testing.assert_frame_equal(again.table, found.table)
    assert again.attrs == found.attrs
    assert repr(again) == repr(found)
    if through is not copy.copy:
        again["score"] = 0.0
        assert found["score"].max() == 0.9


def test_a_result_not_yet_filled_asks_itself_for_nothing():
    """As copy and pickle hold one: without its table, asking would never end."""
    bare = object.__new__(Scores)
    for name in ("table", "__setstate__", "_ipython_display_", "model"):
        assert not hasattr(bare, name)


def test_names_are_completed():
    assert {"table", "uniform", "sort_values", "score"} <= set(dir(scores()))


def test_either_a_result_or_a_frame():
    found = scores()
    assert as_table(found) is found.table
    assert as_table(found.table) is found.table
    assert as_table(None) is None


@pytest.mark.parametrize(
    "rows",
    [
        lambda found: found["score"] > 0.3,
        lambda found: (found["score"] > 0.3).to_numpy(),
        lambda found: (found["score"] > 0.3).tolist(),
        lambda found: (found["score"] > 0.3).astype("boolean"),
        lambda found: slice(1, None),
    ],
    ids=["series", "array", "list", "boolean", "slice"],
)
def test_some_rows_are_a_result_with_the_same_fields(rows):
    found = scores(tokens=7)
    part = found[rows(found)]
    assert type(part) is Scores
    assert part.attrs == found.attrs
    assert part["layer"].tolist() == [1, 2]
    assert "uniform" in repr(part)
    part["score"] = 0.0
    assert found["score"].max() == 0.9


def test_columns_are_pandas_own():
    found = scores()
    assert isinstance(found["score"], pd.Series)
    assert isinstance(found[["score"]], pd.DataFrame)
    assert isinstance(found[found[["score"]] > 0], pd.DataFrame)
    assert isinstance(found[[]], pd.DataFrame)


def test_tables_are_compared_whatever_holds_them():
    assert scores().equals(scores(tokens=7))
    assert scores().equals(scores().table)
    assert not scores().equals(scores(4))
