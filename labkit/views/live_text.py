"""Text that appears as it is generated: one output in a notebook, plain printing in a terminal."""

from __future__ import annotations

import html
import sys
import time
from typing import TYPE_CHECKING

from labkit.markup import visible

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

    from labkit.generation.record import Generation

SECONDS_BETWEEN_UPDATES = 0.05  # a notebook redraws the whole output; faster than the eye only costs


class LiveText:
    """Where the pieces of one generation go. Model output is text, never HTML: it is escaped or printed."""

    def __init__(self) -> None:
        self.text = ""
        self.pieces = 0
        self.began = time.perf_counter()
        self.drawn = 0.0
        self.handle: DisplayHandle | None = None
        if _in_notebook():
            from IPython.display import display

            self.handle = display(self._bundle("…"), raw=True, display_id=True)

    def add(self, piece: str) -> None:
        self.text += piece
        self.pieces += 1
        now = time.perf_counter()
        if self.handle is None:
            sys.stdout.write(visible(piece))  # control characters could steer the terminal
            sys.stdout.flush()
        elif now - self.drawn >= SECONDS_BETWEEN_UPDATES:
            self.drawn = now
            self.handle.update(self._bundle(f"{self.pieces / (now - self.began):.0f} pieces/s"), raw=True)

    def finish(self, generation: Generation) -> None:
        """Show the whole text and how fast it came."""
        foot = f"{len(generation.ids)} tokens, {generation.tokens_per_second:.1f} tokens/s, {_ending(generation)}"
        self.text = generation.text
        if self.handle is None:
            sys.stdout.write(f"\n[{foot}]\n")
        else:
            self.handle.update(self._bundle(foot), raw=True)

    def close(self) -> None:
        """The run failed: leave the text as it stands."""
        if self.handle is not None:
            self.handle.update(self._bundle("failed"), raw=True)

    def _bundle(self, foot: str) -> dict[str, str]:
        page = (
            '<div style="max-width:48em"><div style="white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate">'
            f'{html.escape(visible(self.text))}</div><div style="color:var(--jp-ui-font-color2,GrayText);font-size:85%;'
            f'margin-top:.4em">{html.escape(foot)}</div></div>'
        )
        return {"text/plain": f"{self.text}\n[{foot}]", "text/html": page}


def _ending(generation: Generation) -> str:
    return {
        "end": "ended by the model",
        "form": "ended where its form was complete",
        "stop": "ended by a stop string",
        "length": "ended by max_new_tokens",
        "context": "ended: the model's context is full",
        "stopped": "stopped",
        "interrupted": "interrupted: what was generated is kept",
        "running": "running",
    }[generation.finish_reason]


def _in_notebook() -> bool:
    """Whether there is a kernel whose front end can redraw an output."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
