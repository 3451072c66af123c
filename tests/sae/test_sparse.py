"""The sparse products give the values and gradients of the plain formulas."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from labkit.sae.sparse import _compressed_product, _scattered_product, decode, topk_encode


class Case(NamedTuple):
    x: Tensor
    centre: Tensor
    weight: Tensor
    bias: Tensor
    out: Tensor


def case(rows: int, d_in: int, features: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return Case(
        random(rows, d_in),
        random(d_in).requires_grad_(),
        random(d_in, features).requires_grad_(),
        random(features).requires_grad_(),
        random(features, d_in + 1).requires_grad_(),
    )


def sparse(given: Case, k: int) -> tuple[Tensor, Tensor]:
    """(rows, features) activations and (rows, d_out), by the functions under test."""
    values, indices = topk_encode(given.x, given.centre, given.weight, given.bias, k)
    assert values.shape == indices.shape == (len(given.x), k)
    return torch.zeros(len(given.x), len(given.bias), dtype=given.x.dtype).scatter(-1, indices, values), decode(
        values, indices, given.out
    )


def plain(given: Case, k: int) -> tuple[Tensor, Tensor]:
    """The same by the formulas as they are written."""
    before = (given.x - given.centre) @ given.weight + given.bias
    keep = torch.zeros_like(before).scatter(-1, before.topk(k).indices, 1.0)
    activations = before.relu() * keep
    return activations, activations @ given.out


def assert_same(given: Case, k: int, tolerance: float = 1e-10) -> list[Tensor]:
    """Values and gradients agree; returns the gradients of centre, weight, bias, out."""
    wanted = (given.centre, given.weight, given.bias, given.out)
    found = []
    for function in (sparse, plain):
        activations, out = function(given, k)
        # unlike weights for each number, and a part that does not go through the decoder
        loss = (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum()
        loss = loss + activations.square().sum()
        found.append((activations, out, *torch.autograd.grad(loss, wanted)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance * max(1.0, float(other.detach().abs().max())), rtol=0)
    return list(found[0][2:])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("rows", "d_in", "features", "k"), [(7, 5, 40, 6), (64, 16, 33, 1), (1, 3, 8, 2), (200, 8, 12, 4)]
)
def test_values_and_gradients_are_those_of_the_plain_formulas(
    rows: int, d_in: int, features: int, k: int, dtype: torch.dtype, tolerance: float
) -> None:
    gradients = assert_same(case(rows, d_in, features, dtype=dtype), k, tolerance)
    assert all(bool(g.any()) for g in gradients)


# 65,536 is the most that 16-bit numbers count; from 65,537 on the sort is by 64-bit ones
@pytest.mark.parametrize("features", [65_535, 65_536, 65_537, 131_075])
def test_dictionaries_of_more_features_than_16_bits_count(features: int) -> None:
    given = case(6, 3, features)
    with torch.no_grad():  # the first and the last are at work on every row, and 65,536 where it is there
        ends = sorted({0, 65_536 % features, features - 1})
        given.bias[ends] += 100.0
    gradients = assert_same(given, 5)
    assert bool((gradients[2][ends] != 0).all())


def test_all_features_kept_is_a_plain_relu() -> None:
    given = case(9, 4, 11)
    activations, _ = sparse(given, 11)
    before = (given.x - given.centre) @ given.weight + given.bias
    assert bool((before < 0).any())
    torch.testing.assert_close(activations, before.relu())
    assert_same(given, 11)


def test_what_is_kept_but_below_zero_is_zero_and_gets_no_gradient() -> None:
    given = case(9, 4, 11)
    with torch.no_grad():
        given.bias.sub_(100.0)
        given.bias[3] += 200.0  # one of the eleven is above zero
    activations, _ = sparse(given, 5)
    assert torch.equal(activations > 0, torch.arange(11).eq(3).expand(9, 11))
    _, weight, bias, out = assert_same(given, 5)
    others = torch.arange(11) != 3
    assert not weight[:, others].any()
    assert not bias[others].any()
    assert not out[others].any()


def test_rows_of_zeros() -> None:
    given = case(6, 4, 20)
    given.x[2:5] = 0.0
    assert_same(given, 4)
    given = case(6, 4, 20)
    given.x.zero_()
    with torch.no_grad():
        given.centre.zero_()
        given.bias.zero_()
    for values in sparse(given, 4):  # nothing is above zero, so that nothing comes out
        assert not values.any()
    assert not any(bool(g.any()) for g in assert_same(given, 4))


def test_ties_keep_k_different_features_and_only_those_get_gradients() -> None:
    x, centre = torch.ones(3, 2), torch.zeros(2)
    weight, bias = torch.ones(2, 10, requires_grad=True), torch.zeros(10, requires_grad=True)
    values, indices = topk_encode(x, centre, weight, bias, 4)
    assert torch.equal(values, torch.full((3, 4), 2.0))
    assert all(len(set(row)) == 4 for row in indices.tolist())
    counts = torch.bincount(indices.flatten(), minlength=10).float()
    values.sum().backward()
    assert torch.equal(bias.grad, counts)
    assert torch.equal(weight.grad, counts.expand(2, 10))


def test_a_feature_named_twice_in_a_row_counts_twice() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    indices = torch.tensor([[4, 1, 4]])
    weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    out = decode(values, indices, weight)
    torch.testing.assert_close(out[0], 4 * weight[4] + 2 * weight[1])
    out.sum().backward()
    torch.testing.assert_close(values.grad[0], weight.detach().sum(-1)[[4, 1, 4]])
    torch.testing.assert_close(weight.grad[:, 0], torch.tensor([0.0, 2.0, 0.0, 0.0, 4.0, 0.0], dtype=torch.float64))


def test_decoding_is_the_same_with_and_without_gradients() -> None:
    values, indices = torch.rand(5, 3), torch.randint(0, 9, (5, 3))
    weight = torch.randn(9, 4, requires_grad=True)
    with torch.no_grad():
        without = decode(values, indices, weight)
    assert not without.requires_grad
    assert decode(values, indices, weight).requires_grad
    torch.testing.assert_close(decode(values, indices, weight).detach(), without)
    torch.testing.assert_close(
        without, torch.stack([v @ weight[i] for v, i in zip(values, indices, strict=True)]).detach()
    )


def test_a_gradient_that_is_not_contiguous() -> None:
    values, indices = torch.rand(5, 2, requires_grad=True), torch.tensor([[0, 1], [2, 3], [1, 4], [4, 0], [3, 2]])
    weight = torch.randn(5, 4, requires_grad=True)
    wanted = torch.rand(4, 5).T
    decode(values, indices, weight).backward(wanted)
    torch.testing.assert_close(values.grad, torch.stack([wanted[r] @ weight[indices[r]].T for r in range(5)]).detach())


def test_no_gradient_reaches_the_activations() -> None:
    given = case(4, 3, 9)
    x = given.x.requires_grad_()
    values, indices = topk_encode(x, given.centre, given.weight, given.bias, 2)
    assert not indices.is_floating_point()
    values.sum().backward()
    assert x.grad is None


@pytest.mark.parametrize(("rows", "k", "features"), [(7, 3, 20), (1, 1, 1), (50, 5, 5), (3, 2, 70_000)])
def test_both_ways_to_the_gradient_of_a_matrix_agree(rows: int, k: int, features: int) -> None:
    """That of the CPU and that of other devices; a feature named twice in a row counts twice."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(rows, k, generator=generator, dtype=torch.float64)
    indices = torch.randint(features, (rows, k), generator=generator)
    right = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    found = [make(values, indices, right, features) for make in (_compressed_product, _scattered_product)]
    wanted = torch.zeros(features, 4, dtype=torch.float64)
    wanted.index_add_(0, indices.flatten(), (values[..., None] * right[:, None]).flatten(0, 1))
    for each in found:
        torch.testing.assert_close(each, wanted)
