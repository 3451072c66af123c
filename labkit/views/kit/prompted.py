"""A prompt that can be typed over, whose texts are stopped and written again: what views of texts side by side share."""

from __future__ import annotations

import traitlets

from labkit.markup import clean
from labkit.views.kit.traits import Proposal
from labkit.views.kit.wire import answers


class Prompted(traitlets.HasTraits):
    """The prompt of a view, and the page's two questions about its texts."""

    prompt = traitlets.Unicode("").tag(sync=True)

    def stop(self) -> None:
        """Stop what is being written; what there is of it so far is kept."""
        raise NotImplementedError

    def again(self) -> None:
        """Do once more what was stopped, or failed."""
        raise NotImplementedError

    @traitlets.validate("prompt")
    def _valid_prompt(self, proposal: Proposal) -> str:
        return clean(proposal["value"])

    @answers
    def _answer_stop(self) -> None:
        self.stop()

    @answers
    def _answer_again(self) -> None:
        self.again()
