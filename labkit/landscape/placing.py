"""Where each layer goes: accelerate's own device map, computed on modules without weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from labkit.landscape.footprints import Footprint
from labkit.landscape.structures import Structure, proxy

DeviceMap = dict[str, "int | str"]
BALANCED = 1.25  # of the largest layer, that accelerate leaves each card where it spreads evenly

__all__ = ["DeviceMap", "device_map", "offloaded"]


def device_map(
    described: Structure, footprint: Footprint, cards: int, card_bytes: int, host_bytes: int = 0
) -> DeviceMap | None:
    """accelerate's `infer_auto_device_map` for cards of so many bytes each; None where not all has a place.

    Each layer counts with its weights as they are packed, and with its part of the cache. Of each card the working memory is
    taken off first. Filled evenly, as `device_map="auto"` does, and where that leaves some over, one card after another.
    host_bytes: of the host's memory, to which layers go that no card has room for; such a layer's cache stays on a card,
    which is then short by that much.
    """
    from accelerate.utils import get_balanced_memory, infer_auto_device_map

    room = card_bytes - footprint.working
    if room <= 0:
        return None
    model = proxy(described, footprint.weights, by_layer(described, footprint))
    whole = list(described.whole)
    layers = max((size for path, size in units(described, footprint) if path in described.layers), default=0)
    with _quiet():
        fits = packs(described, footprint, cards, card_bytes)  # if not so filled, then in no other way
        for even in ((True, False) if cards > 1 else (False,)) if fits else ():
            # accelerate keeps room on the first card for a layer that would be fetched from the host; here none is
            for spare in dict.fromkeys((largest(described, footprint), layers, 0)):
                memory: dict[int | str, int] = dict.fromkeys(range(cards), room)
                if even:
                    memory = get_balanced_memory(model, memory, no_split_module_classes=whole)
                memory[0] += spare
                found: DeviceMap = dict(infer_auto_device_map(model, memory, no_split_module_classes=whole))
                if max(on_cards(described, footprint, found, cards)) <= room and not {"cpu", "disk"} & {
                    *found.values()
                }:
                    return found
        if not host_bytes:
            return None
        memory = {**dict.fromkeys(range(cards), room), "cpu": host_bytes}
        found = dict(infer_auto_device_map(model, memory, no_split_module_classes=whole))
    return None if "disk" in found.values() else found


def on_cards(described: Structure, footprint: Footprint, places: Mapping[str, int | str], cards: int) -> list[int]:
    """Bytes of weights and cache that a device map puts on each card."""
    held = [0] * cards
    for path, size in units(described, footprint):
        above = path
        while above not in places and above:
            above = above.rpartition(".")[0]
        device = places.get(above)
        if isinstance(device, int):
            held[device] += size
    return held


def by_layer(described: Structure, footprint: Footprint) -> dict[str, int]:
    """Bytes of cache by a layer's path; where a cache is not kept by layer, evenly."""
    if not footprint.cache or not described.layers:
        return {}
    if len(footprint.cache) == len(described.layers):
        return dict(zip(described.layers, footprint.cache, strict=True))
    return dict.fromkeys(described.layers, -(-footprint.cache_bytes // len(described.layers)))


def largest(described: Structure, footprint: Footprint) -> int:
    """Bytes of the largest part that is never split: a layer with its cache, the embedding, the head."""
    return max(size for _, size in units(described, footprint))


def units(described: Structure, footprint: Footprint) -> Iterator[tuple[str, int]]:
    """The parts that are never split, in the model's order, and their bytes."""
    cache = by_layer(described, footprint)
    sizes: dict[str, int] = {}
    for weight in described.weights:
        path = weight.name.rpartition(".")[0] if weight.layer is None else described.layers[weight.layer]
        sizes[path] = sizes.get(path, 0) + footprint.weights[weight.name]
    for path, size in cache.items():
        sizes[path] = sizes.get(path, 0) + size
    yield from sizes.items()


def packs(described: Structure, footprint: Footprint, cards: int, card_bytes: int) -> bool:
    """Whether all has a place when one card is filled after another: quickly, for looking through many cases."""
    room = card_bytes - footprint.working
    used, left = 0, cards - 1
    for _, size in units(described, footprint):
        if size > room:
            return False
        if used + size > room:
            if left == 0:
                return False
            left, used = left - 1, 0
        used += size
    return True


def offloaded(described: Structure, footprint: Footprint, places: Mapping[str, int | str]) -> int:
    """Bytes of weights that a device map leaves in the host's memory."""
    away = [path for path, device in places.items() if device == "cpu"]
    return sum(
        footprint.weights[weight.name]
        for weight in described.weights
        if any(path == "" or weight.name == path or weight.name.startswith(f"{path}.") for path in away)
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """accelerate warns that the cards are not in this machine."""
    logger = logging.getLogger("accelerate.utils.modeling")
    was = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():  # and, of layers in the host's memory, that their cache stays on a card
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(was)
