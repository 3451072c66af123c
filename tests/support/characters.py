"""A tokenizer of single characters, for models whose weights are written by hand."""

from __future__ import annotations

from types import SimpleNamespace


class Characters:
    """A token is a character of the alphabet, its id the character's place in it."""

    pad_token_id = 0

    def __init__(self, alphabet: str) -> None:
        self.alphabet = alphabet

    def __call__(self, text: str, **_settings: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[self.alphabet.index(c) for c in text])

    def __len__(self) -> int:
        return len(self.alphabet)

    def convert_ids_to_tokens(self, id_: int) -> str:
        return self.alphabet[id_]

    def decode(self, ids: list[int], **_options: object) -> str:
        return "".join(self.alphabet[i] for i in ids)
