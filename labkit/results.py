"""Results that hold a table together with what chance would give.

A DataFrame can carry facts in `DataFrame.attrs`, but most operations of pandas drop them, and nobody sees them. So a
measure returns a small frozen class: its table, beside it named fields for the chance level and for how it was measured,
and both are shown.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ["Result", "as_table"]


def _of_the_table(operation: Callable[..., Any], *, reflected: bool = False) -> Callable[..., Any]:
    """An operator between tables, given results."""

    def apply(self: Result, *other: object) -> Any:
        operands = [self.table, *map(as_table, other)]
        return operation(*reversed(operands)) if reflected else operation(*operands)

    return apply


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """A table, and in named fields what belongs to it. Each measure has a subclass of its own, which says what its fields are.

    table: the DataFrame.
    What a result does not have itself it passes on to its table: `result["effect"]`, `len(result)`, `"layer" in result`,
    `result.sort_values(...)` and iteration are those of the DataFrame, and what they return is pandas' own, without the
    fields. Rows chosen by a mask or a slice alone, `result[result["layer"] > 3]`, are a result again with the same fields.
    The table's methods take results too (`a.merge(b, on="head")`), and so do operators: `result > 0`, `a - b`, `result == 3`
    are the table's, cell by cell; two results are equal when they are the same object.
    Where a field has the name of a column or of a method of pandas, `result.name` is the field; `result["name"]` and
    `result.table.name` are pandas'. pandas' own functions take the table (`pd.concat([a.table, b.table])`), and raise
    TypeError for a result; plotly express takes either.
    `attrs` is the fields as a dict.

    A subclass is a `@dataclass(frozen=True, eq=False, repr=False)`. It may define what is shown around its table: `_title`
    (one line above), `_beneath` (rows beneath, the chance level above all), `_remarks` (lines at the end).
    """

    table: pd.DataFrame

    __pandas_priority__: ClassVar[int] = (
        5000  # above a DataFrame's: in `frame - result` too, operators are those of here
    )

    # what is shown ------------------------------------------------------------------------------------------------

    def _title(self) -> str:
        """The line above the table."""
        return type(self).__name__

    def _beneath(self) -> Mapping[str, Mapping[str, float]]:
        """Rows beneath the table: their label and, by column, what stands there, such as what chance gives for it."""
        return {}

    def _remarks(self) -> Sequence[str]:
        """Lines at the end."""
        return ()

    def __repr__(self) -> str:
        frame, size = self._shown()
        return "\n".join(line for line in (self._title(), _drawn(frame, size, repr), size, *self._remarks()) if line)

    def _repr_html_(self) -> str | None:
        """For notebooks. Everything a text can hold, tokens above all, is escaped; dollar signs start no formula."""
        frame, size = self._shown()
        drawn = _drawn(frame, size, lambda frame: frame._repr_html_())
        if drawn is None:  # pandas was told to draw no HTML
            return None
        lines = [html.escape(line).replace("\n", "<br>") for line in (self._title(), size, *self._remarks())]
        above, below = f"<p>{lines[0]}</p>" if lines[0] else "", "<br>".join(line for line in lines[1:] if line)
        return f'<div class="tex2jax_ignore">{above}{drawn}{f"<p>{below}</p>" if below else ""}</div>'

    def _shown(self) -> tuple[pd.DataFrame, str]:
        """(the table with the rows beneath it, its size in words where pandas would count those rows as well)."""
        import pandas as pd

        rows = self._beneath()
        if not rows:
            return self.table, ""
        frame = self.table.copy(deep=False)
        for name in [name for name in frame.columns if frame[name].dtype.kind != "f"]:
            frame[name] = frame[name].astype(object)  # so that a cell may stay empty
        more = pd.DataFrame(
            {
                name: pd.Series(
                    [of.get(name, float("nan") if frame[name].dtype.kind == "f" else "") for of in rows.values()],
                    index=list(rows),
                    dtype=frame[name].dtype,
                )
                for name in frame.columns
            }
        )
        count, wide = self.table.shape
        return pd.concat([frame, more]), f"[{count} row{'s' * (count != 1)} x {wide} columns]"

    # passed on to the table ---------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        # asked only for what the result does not have itself; before the table is there (copy, pickle), for nothing
        if name.startswith("_") or name == "table":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        try:
            value = getattr(self.table, name)
        except AttributeError:
            raise AttributeError(f"neither {type(self).__name__} nor its table has {name!r}") from None
        return _with_results(value) if inspect.ismethod(value) else value

    def __getitem__(self, key: object) -> Any:
        found = self.table[key]
        return dataclasses.replace(self, table=found) if _chooses_rows(key) else found

    def __setitem__(self, key: object, value: object) -> None:
        self.table[key] = value

    def __delitem__(self, key: object) -> None:
        del self.table[key]

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[object]:
        return iter(self.table)

    def __contains__(self, key: object) -> bool:
        return key in self.table

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        # pd.DataFrame(result) would be made of bare numbers, without the names of the columns and without a word
        if sys._getframe(1).f_globals.get("__name__", "").partition(".")[0] == "pandas":
            raise TypeError(f"pandas' own functions take the table of a {type(self).__name__}; give them result.table.")
        values: np.ndarray = self.table.__array__(dtype, copy)
        return values

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **named: object) -> Any:
        return getattr(ufunc, method)(*map(as_table, inputs), **named)

    def toPandas(self) -> pd.DataFrame:  # the name by which plotly express asks
        """The table."""
        return self.table

    def __bool__(self) -> bool:
        return bool(self.table)  # pandas says what is ambiguous in it, and what to ask instead

    def __round__(self, decimals: int = 0) -> pd.DataFrame:
        return self.table.round(decimals)

    def __eq__(self, other: object) -> Any:
        # two results are one when they are the same object; with all else it is asked cell by cell, as of a table
        return NotImplemented if isinstance(other, Result) else self.table == other

    def __ne__(self, other: object) -> Any:
        return NotImplemented if isinstance(other, Result) else self.table != other

    __hash__ = object.__hash__

    __add__ = _of_the_table(operator.add)
    __radd__ = _of_the_table(operator.add, reflected=True)
    __sub__ = _of_the_table(operator.sub)
    __rsub__ = _of_the_table(operator.sub, reflected=True)
    __mul__ = _of_the_table(operator.mul)
    __rmul__ = _of_the_table(operator.mul, reflected=True)
    __truediv__ = _of_the_table(operator.truediv)
    __rtruediv__ = _of_the_table(operator.truediv, reflected=True)
    __floordiv__ = _of_the_table(operator.floordiv)
    __rfloordiv__ = _of_the_table(operator.floordiv, reflected=True)
    __mod__ = _of_the_table(operator.mod)
    __rmod__ = _of_the_table(operator.mod, reflected=True)
    __pow__ = _of_the_table(operator.pow)
    __rpow__ = _of_the_table(operator.pow, reflected=True)
    __and__ = _of_the_table(operator.and_)
    __rand__ = _of_the_table(operator.and_, reflected=True)
    __or__ = _of_the_table(operator.or_)
    __ror__ = _of_the_table(operator.or_, reflected=True)
    __xor__ = _of_the_table(operator.xor)
    __rxor__ = _of_the_table(operator.xor, reflected=True)
    __neg__ = _of_the_table(operator.neg)
    __pos__ = _of_the_table(operator.pos)
    __abs__ = _of_the_table(operator.abs)
    __invert__ = _of_the_table(operator.invert)
    __lt__ = _of_the_table(operator.lt)
    __le__ = _of_the_table(operator.le)
    __gt__ = _of_the_table(operator.gt)
    __ge__ = _of_the_table(operator.ge)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.table)})

    @property
    def attrs(self) -> dict[str, Any]:
        """The fields beside the table, by name; without those that begin with an underscore."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name != "table" and not name.startswith("_")}


def _chooses_rows(key: object) -> bool:
    if isinstance(key, list):
        return bool(key) and all(isinstance(each, bool) for each in key)
    one_mask = str(getattr(key, "dtype", "")) in ("bool", "boolean") and getattr(key, "ndim", 0) == 1
    return isinstance(key, slice) or one_mask


def as_table(given: object) -> Any:
    """The table of a result; anything else, such as a DataFrame, as it is. For what takes either."""
    return given.table if isinstance(given, Result) else given


def _with_results(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a DataFrame that takes results where it takes DataFrames, as in `a.merge(b, on="head")`."""

    @functools.wraps(method)
    def call(*given: object, **named: object) -> Any:
        return method(*map(as_table, given), **{name: as_table(value) for name, value in named.items()})

    return call


def _drawn(frame: pd.DataFrame, size: str, draw: Callable[[pd.DataFrame], str | None]) -> str | None:
    """pandas' own drawing of a table; without its count of rows where that is told otherwise."""
    import pandas as pd

    if not size:
        return draw(frame)
    with pd.option_context("display.show_dimensions", False):
        return draw(frame)
