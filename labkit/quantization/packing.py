"""Codes of a few bits each, packed into bytes."""

from __future__ import annotations

from functools import cache

import torch


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """(...,) of codes from 0 to 2**bits − 1 as a flat uint8 tensor, the first code in the lowest bits; the end is filled with 0.

    bits: 1 to 8. Takes ceil(codes · bits / 8) bytes.
    """
    flat = codes.reshape(-1).to(torch.uint8)
    if bits == 8:
        return flat.clone()
    if 8 % bits == 0:
        each = 8 // bits
        lanes = torch.nn.functional.pad(flat, (0, -len(flat) % each)).view(-1, each)
        packed = lanes[:, 0].clone()
        for place in range(1, each):
            packed |= lanes[:, place] << (place * bits)
        return packed
    spread = (flat[:, None] >> torch.arange(bits, dtype=torch.uint8, device=flat.device)) & 1
    return pack_bits(spread, 1)


def unpack_bits(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """(count,) uint8: the first `count` codes of `pack_bits`."""
    if bits == 8:
        return packed[:count].clone()
    if 8 % bits == 0:
        return look_up(_codes_of_bytes(bits), packed).view(torch.uint8)[:count]
    rows = torch.nn.functional.pad(packed, (0, -len(packed) % bits)).view(-1, bits)  # of eight codes each
    spread = torch.empty(len(rows), 8, dtype=torch.uint8, device=packed.device)
    for place in range(8):
        byte, shift = divmod(place * bits, 8)
        code = rows[:, byte] >> shift
        if shift + bits > 8:  # the rest stands in the next byte
            code = code | (rows[:, byte + 1] << (8 - shift))
        spread[:, place] = code & (2**bits - 1)
    return spread.view(-1)[:count]


@cache
def _codes_of_bytes(bits: int) -> torch.Tensor:
    """(256,) the codes in each byte, side by side in one number, so that a look-up copies them at once."""
    places = torch.arange(8 // bits) * bits
    codes = ((torch.arange(256)[:, None] >> places) & (2**bits - 1)).to(torch.uint8)
    joined: torch.Tensor = codes.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[8 // bits])
    return joined.view(-1)


def look_up(values: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The value at each code, of the codes' shape. values: (code count,)."""
    return values.to(codes.device).index_select(0, codes.reshape(-1).int()).view(codes.shape)


TRITS = 5  # in a byte: 3⁵ = 243 values


def pack_trits(codes: torch.Tensor) -> torch.Tensor:
    """(...,) of codes 0, 1 and 2 as a flat uint8 tensor, five to a byte as digits to base 3, the first the lowest."""
    flat = codes.reshape(-1).to(torch.uint8)
    lanes = torch.nn.functional.pad(flat, (0, -len(flat) % TRITS)).view(-1, TRITS)
    return (lanes * _powers_of_three(lanes)).sum(1, dtype=torch.uint8)


def unpack_trits(packed: torch.Tensor, count: int) -> torch.Tensor:
    """(count,) uint8: the first `count` codes of `pack_trits`."""
    digits: torch.Tensor = packed[:, None] // _powers_of_three(packed) % 3
    return digits.view(-1)[:count]


def _powers_of_three(like: torch.Tensor) -> torch.Tensor:
    return 3 ** torch.arange(TRITS, dtype=torch.uint8, device=like.device)
