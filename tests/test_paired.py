"""The paired bootstrap: point values, intervals, and what it does with few images."""

import pytest
import torch

from sparsight.tasks.paired import RESAMPLES, compare, draws, mean_of, worst_images


def test_values_and_difference_are_the_plain_ones():
    dense, sparse = torch.tensor([1.0, 0.5, 0.0, 1.0]), torch.tensor([0.5, 0.5, 0.0, 0.0])
    row = compare("x", mean_of(dense), mean_of(sparse), 4, of="layer 3")
    assert row["dense"] == 0.625
    assert row["sparse"] == 0.25
    assert row["difference"] == -0.375
    assert row["low"] <= row["difference"] <= row["high"]
    assert (row["metric"], row["of"]) == ("x", "layer 3")


def test_equal_arms_differ_by_exactly_nothing():
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    row = compare("x", mean_of(values), mean_of(values.clone()), 50)
    assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)


def test_the_interval_of_a_mean_is_that_of_the_textbook():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).double()
    row = compare("x", mean_of(torch.zeros(400)), mean_of(values), 400)
    half = 1.96 * values.std().item() / 20
    # 1000 draws give each end with a relative error of some 5 %.
    assert row["low"] == pytest.approx(values.mean().item() - half, abs=0.2 * half)
    assert row["high"] == pytest.approx(values.mean().item() + half, abs=0.2 * half)


def test_pairing_takes_out_what_is_hard_for_both():
    hard = torch.linspace(0, 1, 100)
    row = compare("x", mean_of(hard), mean_of(hard - 0.1), 100)
    assert row["low"] == pytest.approx(-0.1, abs=1e-6)
    assert row["high"] == pytest.approx(-0.1, abs=1e-6)


def test_one_image_has_no_interval():
    row = compare("x", mean_of(torch.ones(1)), mean_of(torch.zeros(1)), 1)
    assert (row["difference"], row["low"], row["high"]) == (-1, None, None)


def test_draws_are_seeded_and_complete(monkeypatch):
    whole = torch.cat(list(draws(7, seed=3)))
    assert whole.shape == (RESAMPLES, 7)
    assert (whole.sum(1) == 7).all()
    assert torch.equal(whole, torch.cat(list(draws(7, seed=3))))
    assert not torch.equal(whole, torch.cat(list(draws(7, seed=4))))
    monkeypatch.setattr("sparsight.tasks.paired.AT_ONCE", 70)
    assert torch.equal(whole, torch.cat(list(draws(7, seed=3))))


def test_the_worst_images_lose_most():
    dense, sparse = torch.tensor([0.9, 0.8, 0.1]), torch.tensor([0.8, 0.2, 0.4])
    assert [w["image"] for w in worst_images(["a", "b", "c"], dense, sparse, 2)] == ["b", "a"]
    lower = worst_images(["a", "b", "c"], dense, sparse, 1, higher_is_better=False)
    assert lower[0]["image"] == "c"
    assert lower[0]["difference"] == pytest.approx(0.3)
