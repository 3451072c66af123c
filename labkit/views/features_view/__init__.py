"""The features view: a text shaded by one feature of a sparse autoencoder, each token's features, and a dashboard."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Sequence
from typing import Any

import traitlets

from labkit.errors import BadInput
from labkit.markup import html_table
from labkit.sae.dashboards import Dashboard
from labkit.sae.dictionary import SAE, Feature
from labkit.sae.reading import Features
from labkit.views.base import View, clean, module, shorten, style, visible
from labkit.views.errors import Refused, error_sentence
from labkit.views.features_view.reading import Read, activations, check, nothing, plain, read
from labkit.views.latest import Latest
from labkit.views.running_text import is_markup, joined

NONE = -1  # no feature is open, or no token held
IN_A_FILE = 24  # dashboards
MOST_HITS = 50  # of a search
_KEPT = 64  # dashboards, so that going back to one asks for nothing
_TYPING_SECONDS = 0.3  # somebody who types on does not mean what stands there yet
_STATIC_TOKENS, _STATIC_ROWS = 400, 8


def features(
    found: Features | Dashboard,
    *,
    look_up: Callable[[int], Dashboard] | None = None,
    take: Callable[[str], Features] | None = None,
    search: Callable[[str], Sequence[tuple[Any, str]]] | None = None,
    feature: int | Feature | None = None,
) -> FeaturesView:
    """Show which features are at work on a text's tokens, and all that is known of the one that is open.

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


class FeaturesView(View):
    """The features of a text, with `feature` open; set it for another. With `take`, set `typed` for another text, with
    `search` set `asked` for other words, and `wait()` until what that leads to is shown."""

    _title = "Features at work in a text"
    _esm = module("features_view/features.js")
    _css = style("features_view/features.css")

    feature = traitlets.Int(NONE).tag(sync=True)
    """The feature that is open; -1 where none is at work anywhere in the text."""
    held = traitlets.Int(NONE).tag(sync=True)
    """The token that is held, or -1."""
    texts: Any = traitlets.List().tag(sync=True)
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
    version = traitlets.Int(0).tag(sync=True)
    """Counts the texts shown. A front end redraws when it changes, once the traits above agree again."""
    dashboard = traitlets.Dict().tag(sync=True)
    """What is known of the feature looked up last, or nothing."""
    opened = traitlets.Dict().tag(sync=True)
    """feature: which `shade` is of; state: "" without look_up, "waiting", "running", "done", "failed"; message: a sentence."""
    typed = traitlets.Unicode("").tag(sync=True)
    status = traitlets.Dict().tag(sync=True)
    """Of `typed`; state and message as of `opened`."""
    asked = traitlets.Unicode("").tag(sync=True)
    """The words searched for."""
    hits: Any = traitlets.List().tag(sync=True)
    """[feature, sentence] of each one found, the best first."""
    searching = traitlets.Dict().tag(sync=True)
    """Of `asked`; state and message as of `opened`."""

    def __init__(
        self,
        found: Features | Dashboard,
        *,
        look_up: Callable[[int], Dashboard] | None = None,
        take: Callable[[str], Features] | None = None,
        search: Callable[[str], Sequence[tuple[Any, str]]] | None = None,
        feature: int | Feature | None = None,
        **kwargs: Any,
    ) -> None:
        self._taker: Latest[str] = Latest(self._take_text, delay_seconds=_TYPING_SECONDS)
        self._looker: Latest[int] = Latest(self._look_up_one)
        self._searcher: Latest[str] = Latest(self._search_words, delay_seconds=_TYPING_SECONDS)
        self._lock = threading.RLock()  # what the workers set, and what is set meanwhile, are each sent whole
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
        self._known: dict[int, dict[str, Any]] = {}
        self._found: Features | None = None if isinstance(found, Dashboard) else found
        self._sae: SAE = found.feature.sae if isinstance(found, Dashboard) else found.sae
        if isinstance(found, Dashboard):
            self._known[found.feature.index] = plain(found)
        self._read: Read | None = None if self._found is None else read(self._found)
        if feature is not None:
            first = self._checked(feature)
        elif isinstance(found, Dashboard):
            first = found.feature.index
        else:
            first = self._strongest()
        super().__init__(
            **self._text_state(),
            feature=first,
            typed="" if take is None else self._first_text(),
            **kwargs,
        )
        self.observe(self._on_typed, names="typed")
        self.observe(self._on_asked, names="asked")
        self.observe(self._on_feature, names="feature")
        self._open()

    # what a user calls --------------------------------------------------------------------------------------------

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Until what was typed, opened and searched for is shown; whether that came in time, for each of the three."""
        return all(worker.wait(timeout_seconds) for worker in (self._taker, self._looker, self._searcher))

    def close(self) -> None:
        for worker in (self._taker, self._looker, self._searcher):
            worker.close()
        super().close()

    # the text -----------------------------------------------------------------------------------------------------

    def _text_state(self) -> dict[str, Any]:
        """The traits of the text on show."""
        seen, sae = self._read, self._sae
        facts: dict[str, Any] = {
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
            "drawn": len(seen.texts),
            "n": seen.indices.shape[1],
            "bytes": seen.indices.itemsize,
            "most": seen.most,
            "kinds": [[i, kind] for i, kind in enumerate(seen.kinds) if kind],
            "called": [[i, name] for i, name in seen.names.items()],
            "undefined": [[i, why] for i, why in seen.undefined.items()],
            "strongest": [list(each) for each in seen.strongest],
            "nothing": nothing(self._found),
        }
        return {
            "texts": seen.texts,
            "indices": seen.indices.tobytes(),
            "values": seen.values.tobytes(),
            "unexplained": seen.unexplained.tobytes(),
            "facts": facts,
        }

    def _strongest(self) -> int:
        return self._read.strongest[0][0] if self._read is not None and self._read.strongest else NONE

    def _first_text(self) -> str:
        assert self._found is not None
        tokens = self._found.tokens
        # a start token would be typed as text, and come twice
        return joined(tokens[1:] if is_markup(tokens[0]) else tokens)

    def _take_text(self, text: str, stop: threading.Event) -> None:
        """Runs in the worker. Whatever `take` does, the view says so and stands."""
        with self._lock:  # or the state of what was asked since could be overwritten
            if stop.is_set():
                return
            self._say("status", "running")
        try:
            assert self._take is not None
            found = self._take(text)
            check(found)
            if not isinstance(found, Features):
                raise BadInput("take returned a dashboard; return the features of the text, from lk.sae.features.")
            if (found.sae.name, len(found.sae)) != (self._sae.name, len(self._sae)):
                raise BadInput(
                    f"take returned features of {found.sae.name}, and the view shows those of {self._sae.name}."
                )
            with self._lock:
                if stop.is_set() or self.comm is None:
                    return
                self._found, self._read = found, read(found)
                with self.hold_sync():
                    for name, value in self._text_state().items():
                        setattr(self, name, value)
                    if self.held >= len(self._read.texts):
                        self.held = NONE
                    if self.feature == NONE:
                        self.feature = self._strongest()
                    self.shade = self._shade()
                    self.version += 1
                    self._say("status", "done")
        except BaseException as error:  # in this thread there is nobody above to tell
            with self._lock:
                if not stop.is_set():
                    self._say("status", "failed", error_sentence(error, "The text can't be read:"))

    def _shade(self) -> bytes:
        if self.feature == NONE or self._found is None or self._read is None or not self._read.cut:
            return b""
        return activations(self._found, self.feature).tobytes()

    # the feature that is open -------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Show the open feature's dashboard: the one that is known, or the one that the worker gets."""
        feature = self.feature
        with self._lock, self.hold_sync():
            self.shade = self._shade()
            known = self._known.get(feature)
            if known is not None:
                self._looker.stop()
                self.dashboard = known
                self._say("opened", "done", feature=feature)
            elif self._look_up is None or feature == NONE:
                self._say("opened", "", feature=feature)
            else:
                self._say("opened", "waiting", feature=feature)
                self._looker.submit(feature)

    def _look_up_one(self, feature: int, stop: threading.Event) -> None:
        """Runs in the worker."""
        with self._lock:  # or the state of another feature, which was known already, could be overwritten
            if stop.is_set():
                return
            self._say("opened", "running", feature=feature)
        try:
            found = self._dashboard_of(feature)
            with self._lock:
                if stop.is_set() or self.comm is None:
                    return
                with self.hold_sync():
                    self.dashboard = found
                    self._say("opened", "done", feature=feature)
        except BaseException as error:
            with self._lock:
                if not stop.is_set():
                    said = error_sentence(error, f"Feature {feature} can't be looked up:")
                    self._say("opened", "failed", said, feature=feature)

    def _dashboard_of(self, feature: int) -> dict[str, Any]:
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

    # the search ---------------------------------------------------------------------------------------------------

    def _search_words(self, words: str, stop: threading.Event) -> None:
        """Runs in the worker."""
        with self._lock:  # or the state of what was asked since could be overwritten
            if stop.is_set():
                return
            self._say("searching", "running")
        try:
            assert self._search is not None
            hits: list[list[Any]] = []
            for index, why in self._search(words):
                hits.append([self._checked(index), shorten(visible(" ".join(str(why).split())), 200)])
                if len(hits) == MOST_HITS:
                    break
            with self._lock:
                if stop.is_set() or self.comm is None:
                    return
                with self.hold_sync():
                    self.hits = hits
                    asked = shorten(visible(" ".join(words.split())), 80)
                    self._say("searching", "done", "" if hits else f"No feature was found for “{asked}”.")
        except BaseException as error:
            with self._lock, self.hold_sync():
                if not stop.is_set():
                    if self.comm is not None:
                        self.hits = []
                    self._say("searching", "failed", error_sentence(error, "The search failed:"))

    # traits -------------------------------------------------------------------------------------------------------

    def _say(self, name: str, state: str, message: str = "", **more: Any) -> None:
        with self._lock:
            if self.comm is not None:
                setattr(self, name, {"state": state, "message": message, **more})

    @traitlets.validate("feature")
    def _valid_feature(self, proposal: Any) -> int:
        value = proposal["value"]
        return NONE if value == NONE and self._strongest() == NONE else self._checked(value)

    @traitlets.validate("held")
    def _valid_held(self, proposal: Any) -> int:
        value = int(proposal["value"])
        drawn = 0 if self._read is None else len(self._read.texts)
        if not NONE <= value < drawn:
            raise Refused(f"There is no token {value}; give 0 to {drawn - 1}, or -1 for none.")
        return value

    def _on_feature(self, _change: Any) -> None:
        self._open()

    def _on_typed(self, change: Any) -> None:
        if self._take is not None:
            self._say("status", "waiting")
            self._taker.submit(change["new"])

    def _on_asked(self, change: Any) -> None:
        if self._search is None:
            return
        if change["new"].strip():
            self._say("searching", "waiting")
            self._searcher.submit(change["new"])
            return
        self._searcher.stop()
        with self._lock, self.hold_sync():
            self.hits = []
            self._say("searching", "")

    def _checked(self, feature: Any) -> int:
        """A feature's number. Raises the autoencoder's own BadInput for one that it does not have."""
        try:
            return self._sae[feature.index if isinstance(feature, Feature) else feature].index
        except BadInput as error:
            raise Refused(str(error)) from None

    # files and fallbacks ------------------------------------------------------------------------------------------

    def _export_state(self) -> dict[str, Any]:
        dashboards: dict[str, Any] = {}
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
        return f"{text!r}, {_counted(len(self._found), 'token')}, {feature}"

    def _head_line(self) -> str:
        of = f" of {self._sae.model}" if self._sae.model else ""
        text = "" if self._found is None else f" · {_counted(len(self._found), 'token')}"
        return f"{self._sae.name} · {len(self._sae):,} features of what enters layer {self._sae.layer}{of}{text}"

    def _static_text(self) -> str:
        lines = [self._head_line()]
        if self._found is not None and self._read is not None:
            if why := nothing(self._found):
                lines.append(why)
            else:
                lines.append("highest activation of the strongest features:")
            lines += [f"feature {i}: {value:.4g} on {self._named(token)}" for i, value, token in self._read.strongest]
        known = self._known.get(self.feature)
        return "\n".join(lines + ([] if known is None else _told(known)))

    def _named(self, token: int) -> str:
        assert self._found is not None
        return f"“{shorten(visible(self._found.tokens[token]), 30)}” (token {token})"

    def _static_html(self) -> str:
        parts = [f"<p>{html.escape(visible(self._head_line()))}</p>"]
        known = self._known.get(self.feature)
        if self._found is not None and self._read is not None:
            parts.append(self._static_tokens(known))
            if why := nothing(self._found):
                parts.append(f"<p>{html.escape(why)}</p>")
            parts.append(
                html_table(
                    [(i, f"{value:.4g}", self._named(t)) for i, value, t in self._read.strongest[:_STATIC_ROWS]],
                    head=("feature", "highest activation", "on"),
                    caption="The text's strongest features",
                    right=(0, 1),
                )
            )
        if known is not None:
            parts += [f"<p>{html.escape(visible(line))}</p>" for line in _told(known)]
        return f"<div>{''.join(parts)}</div>"

    def _static_tokens(self, known: dict[str, Any] | None) -> str:
        """The text, shaded by the open feature's activation."""
        assert self._found is not None
        assert self._read is not None
        texts = self._read.texts[:_STATIC_TOKENS]
        values = [0.0] * len(texts)
        if self.feature != NONE:
            values = activations(self._found, self.feature)[: len(texts)].tolist()
        top = (known["largest"] if known else None) or max((v for v in values if v > 0), default=1.0)
        spans = []
        for i, (text, value) in enumerate(zip(texts, values, strict=True)):
            shown = html.escape(visible(shorten(text, 60)))
            if i in self._read.undefined:
                spans.append(f'<span style="outline: 1px dotted" title="features are not defined here">{shown}</span>')
            elif value > 0:
                share = 0.6 * min(1.0, value / top)
                spans.append(
                    f'<span style="background: rgba(0, 114, 178, {share:.2f})" title="{value:.4g}">{shown}</span>'
                )
            else:
                spans.append(shown)
        of = "" if self.feature == NONE else f"Shaded by the activation of feature {self.feature}; "
        more = len(self._read.texts) - len(texts)
        cut = f"<p>({more} more tokens)</p>" if more > 0 else ""
        return (
            f"<p>{of}dotted frames: features are not defined.</p>"
            f'<div style="white-space: pre-wrap">{"".join(spans)}</div>{cut}'
        )


def _told(known: dict[str, Any]) -> list[str]:
    """A dashboard's main facts as sentences."""
    index, tokens = known["feature"], known["tokens"]
    if not known["density"]:
        lines = [f"Feature {index} is dead: at work on none of {tokens:,} tokens."]
    else:
        lines = [
            f"Feature {index}: at work on {100 * known['density']:.2g} % of {tokens:,} tokens, highest activation "
            f"{known['largest']:.4g}."
        ]
    for name, verb in (("promoted", "promotes"), ("suppressed", "suppresses")):
        if known[name]:
            lines.append(
                f"It {verb} " + ", ".join(f"“{visible(shorten(token, 30))}”" for token, _ in known[name][:8]) + "."
            )
    for example in known["examples"][:3]:
        text = shorten(visible(" ".join("".join(example["texts"]).split())), 200)
        lines.append(f"{example['kind']}, {(example['values'][example['peak']] or 0):.4g}: {text}")
    return lines


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


__all__ = ["FeaturesView", "features"]
