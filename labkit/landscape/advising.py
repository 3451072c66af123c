"""The cheapest change that makes a model fit, in words and as arguments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from labkit.landscape.cases import Case
from labkit.landscape.structures import published_cache
from labkit.models import published
from labkit.models.memory import human_bytes

CHUNK = 2048  # tokens of a prompt read at a time
SHORTEST = 512  # tokens that a shorter length is not advised below
MOST_CARDS = 64

__all__ = ["advice"]

Change = dict[str, object]


def advice(name: str, case: Case, fits: bool) -> tuple[tuple[str, ...], Change | None]:
    """(sentences, arguments of the cheapest change that makes it fit, {} where it fits, None where none does).

    In this order: a prompt read in pieces costs nothing; a cache in 8 bits and weights in 8 bits cost next to nothing, weights
    in 4 bits and a cache in 4 bits a little; fewer sequences, a shorter text, more cards and another model cost more.
    """
    if fits:
        return (_room(case),), {}
    found = list(_fitting(case))
    others = _smaller(name, case)
    if not found:
        rest = (others,) if others else ()
        return (f"Nothing of what can be changed here makes {name} fit {case.hardware.name}.", *rest), None
    change, words = found[0]
    more = [each for _, each in found[1:]]
    said = [f"The cheapest change: {words}."]
    if more:
        said.append(f"Or: {'; '.join(more)}.")
    return (*said, *((others,) if others else ())), change


def _fitting(case: Case) -> Iterator[tuple[Change, str]]:
    """Changes after which all has a place, the cheapest first; each with words."""
    seen: list[Change] = []
    for change, words in _changes(case):
        # what is a change that was enough already and another one is no news
        if any(one.items() <= change.items() for one in seen):
            continue
        after = replace(case, **change)  # type: ignore[arg-type]
        if after.fits():
            seen.append(change)
            yield change, f"{words} ({human_bytes(after.total_bytes)})"
    yield from _by_size(case)


def _changes(case: Case) -> Iterator[tuple[Change, str]]:
    pieces: Change = {"chunk": CHUNK} if case.chunk is None and case.tokens > CHUNK else {}
    bits = {"float32": 32, "bfloat16": 16, "float16": 16}
    weights = bits.get(case.precision, 8 if "8" in case.precision else 4)
    precisions = [each for each, size in (("bfloat16", 16), ("int8", 8), ("int4", 4)) if size < weights]
    cache = {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "int4": 4}.get(case.cache_precision, 2)
    caches = [each for each, size in (("bfloat16", 16), ("int8", 8), ("int4", 4)) if size < cache]
    pieced = f"prompts read {CHUNK:,} tokens at a time (chunk={CHUNK})"
    if pieces:
        yield pieces, pieced
    for small in caches[:1]:
        yield {"cache_precision": small}, f'a cache in {small} (cache_precision="{small}")'
    for start in ({}, pieces) if pieces else ({},):
        aside = f" and {pieced}" if start else ""
        for precision in precisions:
            yield {**start, "precision": precision}, f'weights in {precision} (precision="{precision}"){aside}'
    for precision in precisions[-1:] or [case.precision]:
        for small in caches:
            change: Change = {**pieces, "cache_precision": small}
            words = f"a cache in {small}" + (f" and {pieced}" if pieces else "")
            if precision != case.precision:
                change["precision"], words = precision, f"weights in {precision}, {words}"
            yield change, words


def _by_size(case: Case) -> Iterator[tuple[Change, str]]:
    """Fewer sequences, fewer tokens, more cards: each by itself."""
    batch = case.batch
    while batch > 1:
        batch = max(1, batch // 2)
        after = replace(case, batch=batch)
        if after.fits():
            yield (
                {"batch": batch},
                f"{batch} sequence{'s' * (batch > 1)} at once (batch={batch}, {human_bytes(after.total_bytes)})",
            )
            break
    tokens = case.tokens
    while tokens > SHORTEST:
        tokens = max(SHORTEST, tokens // 2)
        after = replace(case, tokens=tokens)
        if after.fits():
            yield {"tokens": tokens}, f"texts of {tokens:,} tokens (tokens={tokens}, {human_bytes(after.total_bytes)})"
            break
    if case.hardware.device.link or case.hardware.device.host:
        count = case.hardware.count
        while count < MOST_CARDS:
            count = count + 1 if count < 8 else 2 * count
            more = case.hardware.of(count)
            if replace(case, hardware=more).fits():
                yield {"hardware": more.name}, f"{count} cards ({more.name})"
                break


def _smaller(name: str, case: Case) -> str:
    """The largest published model with fewer parameters that would fit so, counted from the table."""
    own = case.footprint.weight_bytes / case.structure.parameters
    room = case.hardware.usable_bytes - case.hardware.count * case.footprint.working
    entries = [entry for known in published.names() if (entry := published.get(known)) is not None]
    for entry in sorted(entries, key=lambda entry: -entry.parameters):
        if entry.name == name or entry.parameters >= case.structure.parameters:
            continue
        cache = published_cache(entry.name, case.tokens, case.batch, case.cache_precision)
        if cache is None:
            continue
        size = int(entry.parameters * own) + cache
        if size <= 0.95 * room:
            return f"A smaller model would fit as it is: {entry.name} (about {human_bytes(size)})."
    return ""


def _room(case: Case) -> str:
    """What more there is room for."""
    free = case.hardware.usable_bytes - case.total_bytes
    batch = case.batch
    while batch < 2**16 and replace(case, batch=2 * batch).fits():
        batch *= 2
    more = f"; up to {batch} such sequences fit" if batch > case.batch else "; twice as many sequences don't fit"
    return f"It fits with {human_bytes(max(free, 0))} to spare{more}."
