"""Toy superposition, where the truth is known."""

from __future__ import annotations

import pytest
import torch

from labkit.errors import BadInput
from labkit.sae import recovery, world


def test_the_world_is_as_it_says() -> None:
    made = world(40, 12, 3.0, seed=2)
    assert made.directions.shape == (40, 12)
    torch.testing.assert_close(made.directions.norm(dim=-1), torch.ones(40))
    assert float(made.probability.sum()) == pytest.approx(3)
    assert bool((made.probability.diff() < 0).all())  # rarer and rarer
    assert float(made.probability[0] / made.probability[-1]) == pytest.approx(3)
    x, amounts = made.sample(20_000)
    torch.testing.assert_close(x, amounts @ made.directions)
    there = amounts > 0
    assert 0.5 <= float(amounts[there].min()) < 0.51
    assert 1.49 < float(amounts[there].max()) <= 1.5
    assert float(amounts[there].mean()) == pytest.approx(1, abs=0.01)
    # five standard deviations of a share among 20,000
    wide = 5 * (made.probability * (1 - made.probability) / 20_000).sqrt()
    assert bool(((there.float().mean(0) - made.probability).abs() < wide).all())
    together = (there[:, 0] & there[:, 1]).float().mean()
    assert float(together) == pytest.approx(float(made.probability[0] * made.probability[1]), abs=0.004)


def test_a_world_and_what_was_found_of_it_are_shown_in_a_line() -> None:
    made = world(40, 12, 3.0, seed=2)
    assert repr(made) == "World of 40 features in 12 dimensions, 3 there at a time in the mean (seed 2)"
    assert repr(recovery(made.directions, made.directions)).startswith("100% of 40 true features found")


def test_worlds_and_samples_are_by_seed() -> None:
    one, same, other = world(seed=0), world(seed=0), world(seed=1)
    assert torch.equal(one.directions, same.directions)
    assert not torch.equal(one.directions, other.directions)
    assert torch.equal(one.sample(50, 3)[0], same.sample(50, 3)[0])
    assert not torch.equal(one.sample(50, 3)[0], one.sample(50, 4)[0])
    assert not torch.equal(one.sample(50)[1], other.sample(50)[1])


@pytest.mark.parametrize("given", [(1, 5, 0.2), (5, 1, 1.0), (8, 4, 4.0), (8, 4, 0.0), (8, 4, -1.0)])
def test_a_world_that_is_none_is_refused(given: tuple[int, int, float]) -> None:
    with pytest.raises(BadInput, match="active between 0 and half of the features"):
        world(*given)


def test_the_truth_is_recovered_in_any_order_and_at_any_length() -> None:
    truth = world(30, 12).directions
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    lengths = torch.linspace(0.1, 7, 30)[:, None]
    for rows in (truth, truth[order], truth * lengths, torch.cat([torch.randn(20, 12), truth])):
        found = recovery(rows, truth)
        torch.testing.assert_close(found.cosines, torch.ones(30))
        assert found.mean == pytest.approx(1)
        assert found.found == 1
    torch.testing.assert_close(recovery(truth, 5 * truth).cosines, torch.ones(30))  # cosines of any truth


def test_the_opposite_direction_is_not_it() -> None:
    """Features are added, never taken away: minus a direction is another one."""
    truth = torch.eye(8)
    found = recovery(-truth, truth)
    assert found.found == 0
    assert float(found.cosines.max()) <= 0
    mixed = truth * torch.tensor([1.0, -1] * 4)[:, None]
    assert recovery(mixed, truth).found == 0.5


def test_random_rows_are_at_the_level_of_chance() -> None:
    truth = world().directions
    draw = torch.Generator().manual_seed(99)
    # the world's own draw, by the same seed, must not be among those that stand for chance
    means = [recovery(torch.randn(64, 24, generator=draw), truth).mean for _ in range(5)]
    chance = recovery(truth, truth).chance
    assert sum(means) / 5 == pytest.approx(chance, abs=0.02)
    assert 0.2 < chance < 0.6
    assert recovery(torch.randn(64, 24, generator=draw), truth).found == 0
    more = recovery(torch.randn(256, 24, generator=draw), truth)
    assert more.chance > chance + 0.05  # more rows come closer by chance
    assert more.mean == pytest.approx(more.chance, abs=0.03)


def test_each_row_is_given_once_so_that_the_sum_is_greatest() -> None:
    truth = torch.eye(3)
    rows = torch.tensor([[1.0, 0.9, 0], [1.0, 0, 0]])
    cosines = recovery(rows, truth).cosines
    # the first row would suit the first feature, too, but then the second row had nothing
    assert cosines.tolist() == pytest.approx([1, 0.9 / (1.81**0.5), 0])
    best = max(
        sum(float(rows[r] @ truth[f]) / float(rows[r].norm()) for r, f in enumerate(pair))
        for pair in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    )
    assert float(cosines.sum()) == pytest.approx(best)


def test_features_without_a_row_count_as_nothing() -> None:
    truth = torch.eye(6)
    assert recovery(truth[:2], truth).cosines.tolist() == [1, 1, 0, 0, 0, 0]
    assert recovery(truth[:2], truth).mean == pytest.approx(2 / 6)
    assert recovery(torch.zeros(6, 6), truth).mean == 0  # rows without a direction


def test_rows_that_are_being_trained_may_be_given() -> None:
    truth = torch.eye(4)
    assert recovery(torch.nn.Parameter(truth.clone()), truth).found == 1


@pytest.mark.parametrize("shapes", [((5, 3), (5, 4)), ((3,), (5, 3)), ((5, 3), (3,)), ((2, 5, 3), (5, 3))])
def test_shapes_that_share_no_space_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(BadInput, match="don't live in the same space"):
        recovery(torch.ones(shapes[0]), torch.ones(shapes[1]))
