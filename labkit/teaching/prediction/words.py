"""How far a guess was off, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

_SAME = 0.01  # relative: nobody could have said it better
_CLOSE = 1.1  # up to this factor a share is said, and that it was close
_FACTOR = 2.0  # from here a factor says more than a percentage


def number_text(value: float, unit: str = "") -> str:
    """A number with up to four digits that matter, thousands separated; the unit after a space."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        text = f"{int(value):,}"
    elif abs(value) >= 1000:
        text = f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.3g}"
    else:
        text = f"{value:.4g}"
    return f"{text.replace('-', '−')}{f' {unit}' if unit else ''}"


def number_words(guess: float, result: float, unit: str = "") -> str:
    """Such as "Too low by a factor of 2.2."."""
    if guess == result:
        return "Exactly right."
    way = "high" if guess > result else "low"
    if unit in ("%", "per cent", "percent"):
        points = number_text(round(abs(guess - result), 2))
        close = "Close: " if abs(guess - result) <= 5 else ""
        return _capital(f"{close}{points} percentage point{'s' if points != '1' else ''} too {way}.")
    if guess * result <= 0:
        return f"Too {way} by {number_text(abs(guess - result), unit)}."
    ratio = max(guess / result, result / guess)
    share = abs(guess - result) / abs(result)
    if share <= _SAME:
        return "Right to within 1 %."
    if ratio >= _FACTOR:
        return f"Too {way} by a factor of {ratio:.2g}." if ratio < 100 else f"Too {way} by a factor of {ratio:,.0f}."
    return _capital(f"{'close: ' if ratio <= _CLOSE else ''}{share:.0%} too {way}.".replace("%", " %"))


def curve_words(
    x: Sequence[float], guess: Sequence[float], result: Sequence[float], unit: str = "", *, log: bool = False
) -> str:
    """How far off on average, and where most. On a logarithmic axis distances are factors."""
    if log:
        factors = [max(g / r, r / g) for g, r in zip(guess, result, strict=True)]
        mean = 1.0
        for factor in factors:
            mean *= factor ** (1 / len(factors))
        if max(factors) <= 1 + _SAME:
            return "Right at every point to within 1 %."
        at = factors.index(max(factors))
        off = f"Off by a factor of {mean:.2g} on average"
    else:
        gaps = [abs(g - r) for g, r in zip(guess, result, strict=True)]
        if max(gaps) == 0:
            return "Exactly right at every point."
        at = gaps.index(max(gaps))
        off = f"Off by {number_text(float(f'{sum(gaps) / len(gaps):.2g}'), unit)} on average"
    return (
        f"{off}, most at {number_text(x[at])}: you drew {number_text(guess[at], unit)}, "
        f"it was {number_text(result[at], unit)}."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
