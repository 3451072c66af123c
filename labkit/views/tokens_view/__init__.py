"""The token view: a generated text, each token underlined by how sure the model was of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast, overload

import traitlets

from labkit.errors import BadInput
from labkit.markup import counted
from labkit.views.base import View, module, shorten, style, visible
from labkit.views.drawing.page import Page
from labkit.views.kit.running_text import CONTINUED, OUTSIDE
from labkit.views.kit.traits import sent
from labkit.views.tokens_view.choosing import ROWS, ChoiceTraits, Choose
from labkit.views.tokens_view.exported import draw, numbers_of
from labkit.views.tokens_view.marks import OVERRIDDEN
from labkit.views.tokens_view.payload import HESITATION, STROKES, headline, payload, why_empty

if TYPE_CHECKING:
    import pandas as pd

    from labkit.generation.record import Generation
    from labkit.tokenization import Tokens
    from labkit.views.drawing.scene import Picture
    from labkit.views.split_view import SplitView


@overload
def tokens(
    generation: Generation, *, alternatives: int = ..., prompt: bool = ..., choose: Choose | None = ...
) -> TokensView: ...
@overload
def tokens(generation: Tokens | Sequence[Tokens]) -> SplitView: ...
def tokens(
    generation: Generation | Tokens | Sequence[Tokens],
    *,
    alternatives: int = 5,
    prompt: bool = True,
    choose: Choose | None = None,
) -> TokensView | SplitView:
    """Show a generated text token by token: how probable each was, what else the model considered. Or what `lk.tokens` gave.

    generation: a Generation; or the tokens of a text (`lk.tokens`), or up to four of these side by side (two tokenizers, two
        languages), which are shown with their bytes, ids, the merge that made each and the loss of each byte.

    Where it was held to a form, a strip under the text shows how much of the model's probability that forbade.

    alternatives: how many of the kept ones to show for each token; prompt: show the prompt before the text.
    choose: how a token was chosen, a function of the generation and the token's number that returns what
        `Generation.distribution` does. By default the generation's own, where its lab is open: the token in focus shows the
        distribution before and after each filter, computed when it is looked at.
    Raises BadInput when alternatives is not a whole number of at least 0.
    """
    several = list(generation) if isinstance(generation, list | tuple) else [generation]
    if several and all(hasattr(each, "byte_loss") for each in several):
        from labkit.views.split_view import SplitView

        return SplitView(cast("Sequence[Tokens]", several))
    return TokensView(cast("Generation", generation), alternatives=alternatives, prompt=prompt, choose=choose)


class TokenTraits(traitlets.HasTraits):
    """The synced state of a text drawn token by token; `payload` says what is in each trait."""

    constants = sent(
        strokes=[stroke.sent() for stroke in STROKES],
        hesitation=HESITATION,
        kinds={"outside": OUTSIDE, "continued": CONTINUED},
        overridden=OVERRIDDEN,
        choice_rows=ROWS,
    )
    strings = traitlets.List(traitlets.Unicode()).tag(sync=True)
    block = traitlets.Bytes(b"").tag(sync=True)
    forbidden = traitlets.Bytes(b"").tag(sync=True)
    allowed = traitlets.Bytes(b"").tag(sync=True)
    facts = traitlets.Dict().tag(sync=True)
    prompt_text = traitlets.List(traitlets.Unicode(), default_value=["", ""]).tag(sync=True)
    version = traitlets.Int(0).tag(sync=True)
    """Counts the updates. A front end redraws when it changes, which is once the traits above agree again."""


class TokensView(View, TokenTraits, ChoiceTraits):
    """A generated text under which the model's certainty is drawn. `held` is the token held in view, -1 for none."""

    _title = "What the model wrote, and how sure it was"
    _esm = module("tokens_view/tokens.js")
    _css = style("tokens_view/tokens.css")

    held = traitlets.Int(-1).tag(sync=True)

    def __init__(
        self,
        generation: Generation,
        *,
        alternatives: int = 5,
        prompt: bool = True,
        choose: Choose | None = None,
        **kwargs: object,
    ) -> None:
        self._choose_with(choose, lambda _text: self._generation)
        if not hasattr(generation, "top_logprobs"):
            many = isinstance(generation, list | tuple)
            given = "a list of them: show one of the list" if many else f"a {type(generation).__name__}"
            raise BadInput(
                f"views.tokens shows a Generation, as lab.generate returns it, or what lk.tokens gave, and this is {given}."
            )
        self._alternatives = alternatives
        self._prompt = prompt
        self._generation = generation
        super().__init__(
            **payload(generation, alternatives=alternatives, prompt=prompt, running=False),
            **kwargs,
        )
        self._tell_choosing(generation)

    def update(self, generation: Generation, *, running: bool = False) -> None:
        """Show another generation, or more of the same one, in place; the front end gets it in one message.

        running: more is to come. The held token stays held while the text up to it is the same.
        """
        state = payload(generation, alternatives=self._alternatives, prompt=self._prompt, running=running)
        before, self._generation = self._generation, generation
        with self.hold_sync():
            for name, value in state.items():
                setattr(self, name, value)
            self._tell_choosing(generation)
            if generation.ids[: len(before.ids)] != before.ids:
                self.choices = {}
            if list(before.ids[: self.held + 1]) != list(generation.ids[: self.held + 1]):
                self.held = -1
            self.version += 1

    def _describe(self) -> str:
        text = shorten(visible(self._generation.text), 60)
        return f"{text!r}, {counted(len(self._generation.ids), 'token')}"

    def _static_text(self) -> str:
        return static_text(self._generation)

    def _table(self) -> pd.DataFrame:
        return numbers_of(self._generation)

    def _image(self) -> Picture:
        page = Page(description=self._title).heading(self._title)
        return draw(page, self._generation, " · ".join(_head(self._generation))).picture()


def static_text(generation: Generation) -> str:
    """Head line and text, for places that show plain text only."""
    empty = why_empty(generation)
    return " · ".join(_head(generation)) + "\n" + (f"{empty}\n" if empty else "") + generation.text


def _head(generation: Generation) -> list[str]:
    return [visible(part) for part in (generation.model, *headline(generation)) if part]
