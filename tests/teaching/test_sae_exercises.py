"""The solutions of notebook 07's exercises beside labkit's own autoencoders and beside other ways to count."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import labkit as lk
from labkit.sae.dictionary import SAE
from labkit.teaching.exercises import find


def solution(name: str) -> Any:
    return find(f"sae.{name}").reference


def inputs(name: str) -> list[tuple[Any, ...]]:
    return [case.inputs for case in find(f"sae.{name}").cases()]


def autoencoder(d: int = 12, features: int = 40, k: int = 5) -> SAE:
    draw = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(features, d, generator=draw), dim=1)
    return SAE(
        name="drawn",
        model=None,
        layer=1,
        architecture="topk",
        encoder=decoder.T + 0.1 * torch.randn(d, features, generator=draw),
        encoder_bias=0.1 * torch.randn(features, generator=draw),
        decoder=decoder,
        decoder_bias=torch.randn(d, generator=draw),
        k=k,
    )


def test_the_autoencoder_by_hand_is_labkits() -> None:
    sae = autoencoder()
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    ours = solution("topk_autoencoder")(x, sae.encoder, sae.encoder_bias, sae.decoder, sae.decoder_bias, sae.k)
    torch.testing.assert_close(ours[0], sae.encode(x))
    torch.testing.assert_close(ours[1], sae.reconstruct(x))
    values, indices = sae.active(x)
    at_work = torch.bincount(indices[indices >= 0], minlength=40) / 50
    torch.testing.assert_close(solution("density")(indices, 40), at_work)
    assert float(at_work.sum()) == pytest.approx(float((values > 0).sum(1).float().mean()))


def test_interference_is_the_largest_of_all_pairs() -> None:
    for (rows,) in inputs("interference"):
        cosine = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1).abs()
        wanted = [max(float(cosine[i, j]) for j in range(len(rows)) if j != i) for i in range(len(rows))]
        torch.testing.assert_close(solution("interference")(rows), torch.tensor(wanted))


def test_the_fraction_unexplained_is_one_minus_r_squared() -> None:
    for x, told in inputs("fraction_unexplained"):
        total = (x.var(dim=0, correction=0) * len(x)).sum()
        assert float(solution("fraction_unexplained")(x, told)) == pytest.approx(
            float((x - told).pow(2).sum() / total), rel=1e-5, abs=1e-6
        )


def test_balanced_accuracy_counts_each_group_by_itself() -> None:
    for says, fires in inputs("balanced_accuracy"):
        pairs = list(zip(says.tolist(), fires.tolist(), strict=True))
        shares = [
            sum(said == did for said, did in pairs if did is group) / sum(did is group for _, did in pairs)
            for group in (True, False)
        ]
        assert float(solution("balanced_accuracy")(says, fires)) == pytest.approx(sum(shares) / 2)


@pytest.mark.real_model
def test_adding_along_a_direction_is_what_steering_does() -> None:
    lab = lk.load(dtype="float32", device="cpu")
    direction = 7 * torch.randn(576, generator=torch.Generator().manual_seed(2))
    text, layer = "Call me Ishmael. Some years ago", 15
    x = lab.trace(text, keep="residual").residual(layer)
    with lab.edit(lk.sae.steer(direction, 20.0, layer=layer)):
        steered = lk.sae.residual(lab, text, layer)
        assert not torch.equal(steered, x)
    torch.testing.assert_close(solution("add_along")(x, direction, 20.0), steered, rtol=1e-4, atol=1e-3)
