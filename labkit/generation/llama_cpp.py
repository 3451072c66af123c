"""llama.cpp as an engine: a GGUF file opened in this process, token ids in, the logits of the next token out.

The package xllamacpp brings the library. What it shows to Python is a server, which draws tokens itself, tells the likeliest
alone and always opens a port. So its C functions are called here instead: whatever labkit does with logits then holds for this
engine too, and nothing listens. llama.cpp hands settings over in structures that change between versions; they are passed
on as llama.cpp made them, but for three fields that are written once the values around them tell that they are those.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch

from labkit.errors import BadInput, NotEnoughMemory, Unavailable

INSTALL = "pip install xllamacpp"
PASS_TOKENS = 256  # of a prompt, between two looks at an interrupt or a stop
SHORTEST = 256  # tokens that a context has room for at least

_Pointer = ctypes.c_void_p
_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, _Pointer)
_ERROR = 4  # ggml's level of log lines
_F32 = 0  # ggml's number of the type
_MINUS_ONE, _MINUS_ONE_FLOAT = 0xFFFFFFFF, 0xBF800000
# llama_context_params as words of 32 bits, as llama.cpp fills it in: context, batch, micro-batch, sequences, ...
_SIZES = (512, 2048, 512, 1)
_DEFAULTS = (
    *(*_SIZES, 0, 0, 1, 4, 4, 0),
    *[_MINUS_ONE] * 4,  # rotary scaling, pooling, attention, flash attention
    *(0, 0, *[_MINUS_ONE_FLOAT] * 4, 0, _MINUS_ONE_FLOAT),  # frequencies
    *(0, 0, 0, 0),  # a callback and what it is handed
    *(1, 1),  # the types of keys and values: F16
)
_CONTEXT, _FLASH_ATTENTION, _KEYS, _VALUES = 0, 13, 26, 27

Cache = Literal["F16", "F32"]


class _Settings(ctypes.Structure):
    """Room for a structure of llama.cpp's that is handed on unread: larger than any, as these go by way of memory."""

    _fields_ = (("words", ctypes.c_uint32 * 256),)


def is_there() -> bool:
    """Whether the package xllamacpp is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


def check_there() -> None:
    """Raise Unavailable where xllamacpp is not installed, with the command that installs it."""
    if not is_there():
        raise Unavailable(f"llama.cpp needs the package xllamacpp: {INSTALL}")


class LlamaCpp:
    """A GGUF file opened by llama.cpp, and the keys and values of the one text it has read; also used in a `with`.

    path: the file.  threads: of its products; as torch's where None.  context: tokens of prompt and continuation together
        that there is room for from the beginning; `start` makes room for more.
    cache: the type in which keys and values are kept. With "F16", llama.cpp's default, logits of a float32 file are near
        those of a float32 pass, not equal; with "F32" they are equal but for rounding. A version of llama.cpp whose
        settings are not known here keeps F16: `cache` then says so.
    May be used by several threads, one after the other.
    Raises Unavailable without xllamacpp, or where llama.cpp does not open the file.
    """

    def __init__(
        self, path: str | Path, *, threads: int | None = None, context: int = SHORTEST, cache: Cache = "F16"
    ) -> None:
        check_there()
        self._library = _library()
        self._threads = threads
        self.cache = cache
        self._lock = threading.RLock()
        self._model: int | None = None
        self._context: int | None = None
        self.path = Path(path)
        with _said() as lines:
            self._model = self._library.llama_model_load_from_file(
                str(path).encode(), self._library.llama_model_default_params()
            )
        if not self._model:
            raise Unavailable(
                f"llama.cpp does not open {self.path.name}: {_last(lines)}; write the file again with "
                "lk.quantization.write_gguf, or open it with lk.load."
            )
        self.vocabulary: int = self._library.llama_vocab_n_tokens(self._library.llama_model_get_vocab(self._model))
        self.length = 0  # tokens read so far
        self.room = 0
        try:
            self._make_room(context)
        except BaseException:
            self.close()
            raise

    def start(self, ids: Sequence[int], room: int = 1, *, stopped: Callable[[], bool] = lambda: False) -> torch.Tensor:
        """Read a prompt, of which nothing before counts; (vocabulary,) float32: the logits of the token that follows.

        room: tokens that will follow.  stopped: asked between the passes of a long prompt; the rest is then not read, and the
        logits are those after what was read. Raises BadInput for ids that the file's model does not have.
        """
        with self._lock:
            self._check_open()
            self._make_room(len(ids) + room)
            self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
            self.length = 0
            logits = torch.empty(0)
            for first in range(0, len(ids), PASS_TOKENS):
                if first and stopped():
                    break
                logits = self.read(ids[first : first + PASS_TOKENS])
            return logits

    def read(self, ids: Sequence[int]) -> torch.Tensor:
        """Read more tokens of the text; (vocabulary,) float32: the logits of the token that follows them."""
        with self._lock:
            self._check_open()
            if not ids or not all(0 <= id_ < self.vocabulary for id_ in ids):
                raise BadInput(f"{self.path.name} has tokens 0 to {self.vocabulary - 1}; give one of them, or several.")
            if self.length + len(ids) > self.room:
                raise BadInput(
                    f"{self.length + len(ids)} tokens are more than there is room for ({self.room}); give start() more room."
                )
            given = (ctypes.c_int32 * len(ids))(*ids)
            with _said() as lines:
                failed = self._library.llama_decode(self._context, self._library.llama_batch_get_one(given, len(ids)))
            if failed:
                raise Unavailable(
                    f"llama.cpp did not read on after {self.length} tokens ({_last(lines)}); use engine='transformers'."
                )
            self.length += len(ids)
            at = self._library.llama_get_logits_ith(self._context, -1)
            theirs = (ctypes.c_float * self.vocabulary).from_address(at)  # overwritten by the next pass
            return torch.frombuffer(theirs, dtype=torch.float32).clone()

    def seconds_per_token(self, ids: Sequence[int], tokens: int) -> float:
        """How long a greedily generated token takes after a prompt, the prompt left out."""
        import time

        logits = self.start(ids, tokens)
        began = time.perf_counter()
        for _ in range(tokens):
            logits = self.read([int(logits.argmax())])
        return (time.perf_counter() - began) / tokens

    def close(self) -> None:
        """Free the model and what it kept. Nothing happens the second time."""
        with self._lock:
            self._free_context()
            model, self._model = self._model, None
            if model:
                self._library.llama_model_free(model)

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if not self._model:
            raise Unavailable(f"The engine of {self.path.name} was closed; generate again to open it.")

    def _make_room(self, tokens: int) -> None:
        """A context for so many tokens, in steps, so that a slightly longer text needs no new one."""
        if self._context and tokens <= self.room:
            self._follow_threads()
            return
        self._free_context()
        wanted = SHORTEST * -(-max(tokens, SHORTEST) // SHORTEST)
        settings = self._library.llama_context_default_params()
        if tuple(settings.words[: len(_SIZES)]) != _SIZES:
            raise Unavailable(
                "This version of llama.cpp hands over other settings than labkit knows; install the tested one, which "
                "constraints.txt names."
            )
        if tuple(settings.words[: len(_DEFAULTS)]) != _DEFAULTS:
            self.cache = "F16"
        elif self.cache == "F32":  # flash attention would round them to 16 bits
            settings.words[_FLASH_ATTENTION], settings.words[_KEYS], settings.words[_VALUES] = 0, _F32, _F32
        settings.words[_CONTEXT] = wanted
        with _said() as lines:
            self._context = self._library.llama_init_from_model(self._model, settings)
        if not self._context:
            raise NotEnoughMemory(
                f"llama.cpp made no room for {wanted} tokens of {self.path.name} ({_last(lines)}); give a shorter prompt or a "
                "smaller max_new_tokens."
            )
        self.room = int(self._library.llama_n_ctx(self._context))
        self._follow_threads()

    def _follow_threads(self) -> None:
        threads = self._threads or torch.get_num_threads()
        self._library.llama_set_n_threads(self._context, threads, threads)

    def _free_context(self) -> None:
        context, self._context = self._context, None
        self.room = self.length = 0
        if context:
            self._library.llama_free(context)


@functools.cache
def _library() -> Any:
    """llama.cpp's C functions, out of the extension module that xllamacpp brings. Raises Unavailable where it hides them."""
    import xllamacpp.xllamacpp as extension

    number = ctypes.c_int32
    functions: dict[str, tuple[Any, ...]] = {  # name: result, arguments
        "llama_backend_init": (None,),
        "llama_log_set": (None, _Log, _Pointer),
        "llama_model_default_params": (_Settings,),
        "llama_model_load_from_file": (_Pointer, ctypes.c_char_p, _Settings),
        "llama_model_free": (None, _Pointer),
        "llama_model_get_vocab": (_Pointer, _Pointer),
        "llama_vocab_n_tokens": (number, _Pointer),
        "llama_context_default_params": (_Settings,),
        "llama_init_from_model": (_Pointer, _Pointer, _Settings),
        "llama_free": (None, _Pointer),
        "llama_n_ctx": (ctypes.c_uint32, _Pointer),
        "llama_set_n_threads": (None, _Pointer, number, number),
        "llama_get_memory": (_Pointer, _Pointer),
        "llama_memory_clear": (None, _Pointer, ctypes.c_bool),
        "llama_batch_get_one": (_Settings, _Pointer, number),
        "llama_decode": (number, _Pointer, _Settings),
        "llama_get_logits_ith": (_Pointer, _Pointer, number),
    }
    library = ctypes.CDLL(extension.__file__)
    for name, (result, *arguments) in functions.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise Unavailable(
                f"This build of xllamacpp does not show llama.cpp's {name}; use engine='transformers', or xllamacpp's wheel "
                "for Linux or macOS."
            ) from error
        function.restype, function.argtypes = result, arguments
    library.llama_backend_init()
    return library


@contextlib.contextmanager
def _said() -> Iterator[deque[str]]:
    """While inside, the errors that llama.cpp logs are collected here; what else it says goes nowhere."""
    lines: deque[str] = deque(maxlen=5)
    _LISTENERS.append(lines)
    _library().llama_log_set(_LISTEN, None)  # a server of xllamacpp's may have set its own
    try:
        yield lines
    finally:
        _LISTENERS.remove(lines)


_LISTENERS: list[deque[str]] = []


def _listen(level: int, text: bytes, _user: object) -> None:
    if level == _ERROR:
        for lines in list(_LISTENERS):
            lines.append(text.decode("utf-8", "replace").strip())


_LISTEN = _Log(_listen)  # kept for as long as llama.cpp may call it


def _last(lines: Sequence[str]) -> str:
    return lines[-1][:200] if lines else "it does not say why"
