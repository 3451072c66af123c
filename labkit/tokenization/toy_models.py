"""Small transformers over bytes, over byte pairs and over patches of bytes, from scratch, to be trained in seconds.

Patches are those of the Byte Latent Transformer (Pagnoni et al. 2024, arXiv:2412.09871) in little: where the next byte is hard
to foresee a new patch begins; a transformer runs over the patches, and a light one over the bytes reads what it found.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Block", "PatchModel", "UnitModel"]


class Block(nn.Module):
    """Pre-norm attention and MLP. x: (batch, T, d_model); positions by rotation (Su et al. 2021)."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_mlp = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model, bias=False), nn.Linear(d_model, d_model, bias=False)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotated(query), rotated(key), value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        changed: Tensor = x + self.mlp(self.norm_mlp(x))
        return changed


def rotated(x: Tensor) -> Tensor:
    """x: (batch, heads, T, d_head), each pair of halves turned by its position."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * 1000.0 ** (-torch.arange(half) / half)
    one, two = x[..., :half], x[..., half:]
    return torch.cat([one * angles.cos() - two * angles.sin(), one * angles.sin() + two * angles.cos()], -1)


class UnitModel(nn.Module):
    """A transformer over units, bytes or tokens. ids: (batch, T). Returns (batch, T, vocabulary): of each next unit."""

    def __init__(self, vocabulary: int, d_model: int, layers: int, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, d_model)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(d_model, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.norm(self.blocks(self.embed(ids))) @ self.embed.weight.T
        return logits


class PatchModel(nn.Module):
    """A transformer over patches of bytes. ids, starts: (batch, T), starts True where a byte begins a patch.

    begins: (batch, T), True where the byte after begins one, which what comes before it tells. Each byte is foretold from the
    bytes up to it (one light block) and from all patches that ended before the byte foretold. Returns (batch, T, vocabulary).
    """

    def __init__(self, vocabulary: int, d_model: int, layers: int, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, d_model)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.reading, self.writing = Block(d_model, heads), Block(d_model, heads)
        self.blocks = nn.Sequential(*(Block(d_model, heads) for _ in range(layers)))
        self.patch_norm, self.norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.before = nn.Parameter(torch.zeros(d_model))  # what stands for the patches before the first

    def forward(self, ids: Tensor, begins: Tensor) -> Tensor:
        starts = F.pad(begins[:, :-1], (1, 0), value=True)  # a window's first byte begins a patch
        number = starts.long().cumsum(1) - 1  # (batch, T), of each byte's patch
        local = self.reading(self.embed(ids))
        patches = int(number.max()) + 1
        sums = torch.zeros(len(ids), patches, local.shape[-1]).scatter_add(1, _wide(number, local), local)
        sizes = torch.zeros(len(ids), patches).scatter_add(1, number, torch.ones_like(number, dtype=torch.float32))
        found = self.patch_norm(self.blocks(sums / sizes.clamp(min=1)[..., None]))
        found = torch.cat([self.before.expand(len(ids), 1, -1), found], 1)
        ended = number + begins.long()  # how many patches have ended when the next byte is foretold
        seen = found.gather(1, _wide(ended, local))
        logits: Tensor = self.norm(self.writing(local + seen)) @ self.embed.weight.T
        return logits


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, like.shape[-1])
