"""llama.cpp as an engine for GGUF files, through the package xllamacpp: log-probabilities and the time of a token.

Its server listens on a port of this machine's loopback address while it is open, and there is no way to have it without.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from labkit.errors import BadInput, Unavailable


def is_there() -> bool:
    """Whether the package xllamacpp is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaCpp:
    """A GGUF file opened by llama.cpp on the CPU; used in a `with`.

    context: tokens of prompt and continuation together.  threads: as torch's, for fair times.
    Raises Unavailable without xllamacpp, or where llama.cpp does not open the file.
    """

    def __init__(self, path: str | Path, *, threads: int = 1, context: int = 512) -> None:
        if not is_there():
            raise Unavailable("llama.cpp needs the package xllamacpp: pip install xllamacpp")
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx, settings.n_parallel = context, 1  # the context would be split among slots
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        settings.hostnames, settings.port, settings.offline, settings.ui = ["127.0.0.1"], 0, True, False
        settings.n_gpu_layers, settings.verbosity, settings.warmup = 0, -1, False
        try:
            self._server: Any = xllamacpp.Server(settings)
        except RuntimeError as error:
            raise Unavailable(
                f"llama.cpp does not open {Path(path).name}: {str(error).splitlines()[0][:200]}; write the file again with "
                "lk.quantization.write_gguf, or open it with lk.load."
            ) from error
        self.context = context

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and free the model."""
        self._server = None

    def next_tokens(self, ids: Sequence[int], alternatives: int = 10) -> dict[int, float]:
        """The likeliest next tokens after a prompt, with their log-probabilities in nats. Raises Unavailable, BadInput."""
        told = self._complete(ids, 1, logprobs=alternatives, ignore_eos=True)["choices"][0]["logprobs"]
        if told is None:
            raise Unavailable(
                "llama.cpp tells no log-probabilities after this prompt, since the likeliest token is no whole character; "
                "give another prompt."
            )
        found = told["content"][0]["top_logprobs"]
        return {int(each["id"]): float(each["logprob"]) for each in found}

    def seconds_per_token(self, ids: Sequence[int], tokens: int) -> float:
        """How long a greedily generated token takes after a prompt, the prompt left out."""
        timings = self._complete(ids, tokens, ignore_eos=True)["timings"]
        return float(timings["predicted_ms"]) / 1000 / max(1, int(timings["predicted_n"]))

    def _complete(self, ids: Sequence[int], tokens: int, **more: object) -> dict[str, Any]:
        if len(ids) + tokens > self.context:
            raise BadInput(
                f"{len(ids)} tokens and {tokens} more are longer than context={self.context}; give a larger one."
            )
        asked = {"prompt": list(ids), "n_predict": tokens, "temperature": 0, "cache_prompt": False, **more}
        answer: dict[str, Any] = self._server.handle_completions(asked)
        if "usage" not in answer:  # what llama.cpp refuses comes back as a dict too
            raise Unavailable(
                f"llama.cpp did not continue the prompt: {str(answer)[:200]}; give a shorter prompt of tokens that the file has."
            )
        return answer
