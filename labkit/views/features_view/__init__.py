"""The features view: a text shaded by one feature of a sparse autoencoder, each token's features, and a dashboard."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING

import traitlets

from labkit.errors import BadInput, Unavailable
from labkit.markup import counted, one_line
from labkit.sae.dashboards import Dashboard
from labkit.sae.dictionary import SAE, Feature
from labkit.sae.reading import Features
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.drawing.page import Page
from labkit.views.features_view.activations import Drawn, Plain, activations, check, drawn, nothing, plain
from labkit.views.features_view.exported import numbers_of, shaded
from labkit.views.kit.errors import Refused, error_sentence
from labkit.views.kit.job import Job
from labkit.views.kit.running_text import is_markup, joined
from labkit.views.kit.traits import Change, Proposal
from labkit.views.kit.typed import TYPING_SECONDS, TypedText

if TYPE_CHECKING:
    import pandas as pd

    from labkit.views.drawing.scene import Picture

NONE = -1  # no feature is open, or no token held
IN_A_FILE = 24  # dashboards
MOST_HITS = 50  # of a search
_KEPT = 64  # dashboards, so that going back to one asks for nothing
_PICTURE_ROWS = 8

LookUp = Callable[[int], Dashboard]
Take = Callable[[str], Features]
Search = Callable[[str], Iterable[tuple[int | Feature, str]]]
Hit = list[int | str]


def features(
    found: Features | Dashboard,
    *,
    look_up: LookUp | None = None,
    take: Take | None = None,
    search: Search | None = None,
    feature: int | Feature | None = None,
) -> FeaturesView:
    """Show which features are active on a text's tokens, and all that is known of the one that is open.

    found: the features of one text, from lk.sae.features; or a Dashboard, which then stands alone.
    look_up: a function from a feature's number to its Dashboard, called in a worker when the feature is opened. Without
        it only activations in the text are shown.
    take: a function from a text to its Features, such as `lambda text: lk.sae.features(lab, sae, text)`; with it the text
        can be typed over.
    search: a function from words to pairs of a feature's number and a sentence why it was found.
    feature: the one open at first; left out, the one with the highest activation anywhere in the text.
    Raises BadInput for what has no features, for a feature that is not there, and for functions that can't be called.
    """
    return FeaturesView(found, look_up=look_up, take=take, search=search, feature=feature)


class FeaturesView(View, TypedText):
    """The features of a text, with `feature` open; set it for another. With `take`, set `typed` for another text, with
    `search` set `asked` for other words, and `wait()` until what that leads to is shown."""

    _title = "Features active in a text"
    _esm = module("features_view/features.js")
    _css = style("features_view/features.css")

    feature = traitlets.Int(NONE).tag(sync=True)
    """The feature that is open; -1 where none is active anywhere in the text."""
    held = traitlets.Int(NONE).tag(sync=True)
    """The token that is held, or -1."""
    texts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    """The drawn tokens' pieces of the running text."""
    indices = traitlets.Bytes(b"").tag(sync=True)
    """(drawn, n) features, the most active first; two bytes each, or four from 65,536 features on, all bits set for none."""
    values = traitlets.Bytes(b"").tag(sync=True)
    """(drawn, n) float32 activations."""
    unexplained = traitlets.Bytes(b"").tag(sync=True)
    """(drawn,) float32: the share of each token that its features leave over."""
    shade = traitlets.Bytes(b"").tag(sync=True)
    """(drawn,) float32: the open feature's activations, where `indices` leaves out the weaker ones; else nothing."""
    facts = traitlets.Dict().tag(sync=True)
    dashboard = traitlets.Dict().tag(sync=True)
    """What is known of the feature looked up last, or nothing."""
    opened = traitlets.Dict().tag(sync=True)
    """feature: which `shade` is of; and how its dashboard stands, as kit/job.py says it."""
    asked = traitlets.Unicode("").tag(sync=True)
    """The words searched for."""
    hits: traitlets.List[Hit] = traitlets.List().tag(sync=True)
    """[feature, sentence] of each one found, the best first."""
    searching = traitlets.Dict().tag(sync=True)
    """How the search for `asked` stands, likewise."""

    def __init__(
        self,
        found: Features | Dashboard,
        *,
        look_up: LookUp | None = None,
        take: Take | None = None,
        search: Search | None = None,
        feature: int | Feature | None = None,
        **kwargs: object,
    ) -> None:
        self._follow_typed(self._taken, self._shown, failed="The text can't be read:")
        self._looker: Job[int, Plain] = Job(
            self,
            lambda feature, _run: self._dashboard_of(feature),
            self._show_dashboard,
            status="opened",
            failed="Feature {} can't be looked up:".format,
            facts=lambda feature: {"feature": feature},
        )
        self._searcher: Job[str, list[Hit]] = Job(
            self,
            lambda words, _run: self._found_by(words),
            self._show_hits,
            status="searching",
            failed="The search failed:",
            give_up=lambda words: self._no_hits(),
            delay_seconds=TYPING_SECONDS,
        )
        check(found)
        for name, function, example in (
            ("look_up", look_up, "a function from a feature's number to its Dashboard"),
            ("take", take, "lambda text: lk.sae.features(lab, sae, text)"),
            ("search", search, "a function from words to pairs of a feature's number and a sentence"),
        ):
            if function is not None and not callable(function):
                raise BadInput(f"{name}={function!r} can't be called; give {example}.")
        if isinstance(found, Dashboard) and take is not None:
            raise BadInput(
                "A dashboard alone has no text that could be typed over; give the features of a text, and look_up."
            )
        self._look_up, self._take, self._search = look_up, take, search
        self._known: dict[int, Plain] = {}
        self._found: Features | None = None if isinstance(found, Dashboard) else found
        self._sae: SAE = found.feature.sae if isinstance(found, Dashboard) else found.sae
        self._drawn: Drawn | None = None if self._found is None else drawn(self._found)
        first = self._strongest() if feature is None else self._checked(feature)
        if isinstance(found, Dashboard):
            self._known[found.feature.index] = plain(found)
            first = found.feature.index if feature is None else first
        typed = "" if take is None else self._first_text()
        super().__init__(**self._text_state(), feature=first, typed=typed, **kwargs)
        self.observe(self._on_asked, names="asked")
        self.observe(lambda _change: self._open(), names="feature")
        self._open()

    # the text -----------------------------------------------------------------------------------------------------

    def _text_state(self) -> dict[str, object]:
        """The traits of the text on show."""
        seen, sae = self._drawn, self._sae
        facts: dict[str, object] = {
            "sae": clean(shorten(sae.name, 80)),
            "model": clean(shorten(sae.model or "", 80)),
            "layer": sae.layer,
            "features": len(sae),
            "text": seen is not None,
            "can_take": self._take is not None,
            "can_look_up": self._look_up is not None,
            "can_search": self._search is not None,
        }
        if seen is None or self._found is None:
            return {"facts": facts}
        facts |= {
            "tokens": seen.tokens,
            "drawn": len(seen.pieces.texts),
            "n": seen.indices.shape[1],
            "bytes": seen.indices.itemsize,
            "most": seen.most,
            **seen.pieces.marks(),
            "undefined": [[i, why] for i, why in seen.undefined.items()],
            "strongest": [list(each) for each in seen.strongest],
            "nothing": nothing(self._found),
        }
        return {
            "texts": seen.pieces.texts,
            "indices": seen.indices.tobytes(),
            "values": seen.values.tobytes(),
            "unexplained": seen.unexplained.tobytes(),
            "facts": facts,
        }

    def _strongest(self) -> int:
        return self._drawn.strongest[0][0] if self._drawn is not None and self._drawn.strongest else NONE

    def _first_text(self) -> str:
        assert self._found is not None
        tokens = self._found.tokens
        # a start token would be typed as text, and come twice
        return joined(tokens[1:] if is_markup(tokens[0]) else tokens)

    def _taken(self, text: str) -> Features:
        """Whatever `take` makes of a text. Raises BadInput for what can't stand in this view."""
        assert self._take is not None
        found = self._take(text)
        check(found)
        if not isinstance(found, Features):
            raise BadInput("take returned a dashboard; return the features of the text, from lk.sae.features.")
        if (found.sae.name, len(found.sae)) != (self._sae.name, len(self._sae)):
            raise BadInput(f"take returned features of {found.sae.name}, and the view shows those of {self._sae.name}.")
        return found

    def _shown(self, found: Features) -> dict[str, object]:
        self._found, self._drawn = found, drawn(found)
        if self.held >= len(self._drawn.pieces.texts):
            self.held = NONE
        if self.feature == NONE:
            self.feature = self._strongest()
        return {**self._text_state(), "shade": self._shade()}

    def _shade(self) -> bytes:
        if self.feature == NONE or self._found is None or self._drawn is None or not self._drawn.cut:
            return b""
        return activations(self._found, self.feature).tobytes()

    # the feature that is open -------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Show the open feature's dashboard: the one that is known, or the one that the worker gets."""
        with self._lock, self.hold_sync():
            self.shade = self._shade()
            if self.feature in self._known:
                self._looker.answer(self.feature, self._known[self.feature])
            elif self._look_up is None or self.feature == NONE:
                self._looker.clear(self.feature)
            else:
                self._looker.ask(self.feature)

    def _dashboard_of(self, feature: int) -> Plain:
        """A feature's dashboard, from what is known or from `look_up`, whatever that raises."""
        if feature not in self._known:
            assert self._look_up is not None
            found = self._look_up(feature)
            if not isinstance(found, Dashboard):
                raise BadInput(
                    f"look_up returned a {type(found).__name__} for feature {feature}; return its Dashboard."
                )
            if found.feature.index != feature:
                raise BadInput(
                    f"look_up returned the dashboard of feature {found.feature.index} for feature {feature}."
                )
            shown = plain(found)
            with self._lock:
                while len(self._known) >= _KEPT:
                    del self._known[next(iter(self._known))]
                self._known[feature] = shown
            return shown
        return self._known[feature]

    def _show_dashboard(self, _feature: int, found: Plain) -> str:
        self.dashboard = found
        return ""

    # the search ---------------------------------------------------------------------------------------------------

    def _found_by(self, words: str) -> list[Hit]:
        assert self._search is not None
        hits = islice(self._search(words), MOST_HITS)
        return [[self._checked(index), one_line(why, 200)] for index, why in hits]

    def _show_hits(self, words: str, hits: list[Hit]) -> str:
        self.hits = hits
        return "" if hits else f"No feature was found for “{one_line(words, 80)}”."

    def _no_hits(self) -> None:
        self.hits = []

    # traits -------------------------------------------------------------------------------------------------------

    @traitlets.validate("feature")
    def _valid_feature(self, proposal: Proposal) -> int:
        value = proposal["value"]
        return NONE if value == NONE and self._strongest() == NONE else self._checked(value)

    @traitlets.validate("held")
    def _valid_held(self, proposal: Proposal) -> int:
        value = int(proposal["value"])
        n = 0 if self._drawn is None else len(self._drawn.pieces.texts)
        if not NONE <= value < n:
            raise Refused(f"There is no token {value}; give 0 to {n - 1}, or -1 for none.")
        return value

    def _on_asked(self, change: Change) -> None:
        if self._search is None:
            return
        if change["new"].strip():
            self._searcher.ask(change["new"])
            return
        with self._lock, self.hold_sync():
            self._no_hits()
            self._searcher.clear("")

    def _checked(self, feature: int | Feature) -> int:
        """A feature's number. Raises the autoencoder's own BadInput for one that it does not have."""
        try:
            return self._sae[feature.index if isinstance(feature, Feature) else feature].index
        except BadInput as error:
            raise Refused(str(error)) from None

    # files and fallbacks ------------------------------------------------------------------------------------------

    def _export_state(self) -> dict[str, object]:
        dashboards: dict[str, object] = {}
        wanted = [self.feature]
        if self._found is not None and self._look_up is not None:
            wanted += [feature.index for feature, _, _ in self._found.strongest(IN_A_FILE)]
        for feature in [each for each in dict.fromkeys(wanted) if each != NONE][:IN_A_FILE]:
            if feature not in self._known and self._look_up is None:
                continue
            try:
                dashboards[str(feature)] = self._dashboard_of(feature)
            except Exception as error:  # the file is written all the same, and says what is missing
                dashboards[str(feature)] = {"failed": error_sentence(error, f"Feature {feature} can't be looked up:")}
        return {
            **super()._export_state(),
            "dashboards": dashboards,
            "dashboard": {},
            "opened": {"feature": self.feature, "state": "", "message": ""},
            "typed": "",
            "status": {},
            "asked": "",
            "hits": [],
            "searching": {},
        }

    def _describe(self) -> str:
        feature = "no feature" if self.feature == NONE else f"feature={self.feature}"
        if self._found is None:
            return f"{self._sae.name!r}, {feature}"
        text = shorten(visible("".join(self._found.tokens[:60])), 60)
        return f"{text!r}, {counted(len(self._found), 'token')}, {feature}"

    def _head_line(self) -> str:
        of = f" of {self._sae.model}" if self._sae.model else ""
        text = "" if self._found is None else f" · {counted(len(self._found), 'token')}"
        return f"{self._sae.name} · {len(self._sae):,} features of what enters layer {self._sae.layer}{of}{text}"

    def _static_text(self) -> str:
        lines = [self._head_line()]
        if self._found is not None and self._drawn is not None:
            if why := nothing(self._found):
                lines.append(why)
            else:
                lines.append("highest activation of the strongest features:")
            lines += [f"feature {i}: {value:.4g} on {self._named(token)}" for i, value, token in self._drawn.strongest]
        known = self._known.get(self.feature)
        return "\n".join(lines + ([] if known is None else _told(known)))

    def _named(self, token: int) -> str:
        assert self._found is not None
        return f"“{shorten(visible(self._found.tokens[token]), 30)}” (token {token})"

    def _table(self) -> pd.DataFrame:
        if self._found is None:
            raise Unavailable(
                "A dashboard alone holds no text's activations; its own numbers are in lk.sae's Dashboard. "
                "to_html, to_svg and to_png write it as it looks."
            )
        return numbers_of(self._found)

    def _image(self) -> Picture:
        page = Page(description=self._title).heading(self._title).note(self._head_line())
        known = self._known.get(self.feature)
        if self._found is not None and self._drawn is not None:
            values = [0.0] * len(self._drawn.pieces.texts)
            if self.feature != NONE:
                values = activations(self._found, self.feature).tolist()
            top = (known["largest"] if known else None) or max((v for v in values if v > 0), default=1.0)
            shaded(page, self._drawn.pieces.texts, values, top, list(self._drawn.undefined))
            if why := nothing(self._found):
                page.paragraph(why)
            rows = self._drawn.strongest[:_PICTURE_ROWS]
            page.table(
                [(i, f"{value:.4g}", self._named(token)) for i, value, token in rows],
                ("feature", "highest activation", "on"),
                caption="The text's strongest features",
                right=(0, 1),
            )
        for line in _told(known) if known is not None else ():
            page.paragraph(line)
        return page.picture()


def _told(known: Plain) -> list[str]:
    """A dashboard's main facts as sentences."""
    index, tokens = known["feature"], known["tokens"]
    if not known["density"]:
        lines = [f"Feature {index} is dead: active on none of {tokens:,} tokens."]
    else:
        lines = [
            f"Feature {index}: active on {100 * known['density']:.2g} % of {tokens:,} tokens, highest activation "
            f"{known['largest']:.4g}."
        ]
    for name, verb in (("promoted", "promotes"), ("suppressed", "suppresses")):
        if known[name]:
            lines.append(
                f"It {verb} " + ", ".join(f"“{visible(shorten(token, 30))}”" for token, _ in known[name][:8]) + "."
            )
    for example in known["examples"][:3]:
        text = one_line("".join(example["texts"]), 200)
        lines.append(f"{example['kind']}, {(example['values'][example['peak']] or 0):.4g}: {text}")
    return lines


__all__ = ["FeaturesView", "features"]
