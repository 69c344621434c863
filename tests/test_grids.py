"""Tokens as a grid over the picture: its sides, and moving it to another one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsight.errors import UnsupportedModelError
from sparsight.ops.grids import AROUND, grid_of, padded_grid_of, regrid, surroundings

SIDES = st.integers(1, 40)


@given(rows=SIDES, columns=SIDES, side=st.integers(1, 32))
def test_a_grid_of_squares_is_found_and_other_counts_are_none(rows, columns, side):
    picture = (rows * side, columns * side)
    assert grid_of(rows * columns, picture) == (rows, columns)
    assert padded_grid_of(rows * columns, picture) == (rows, columns)
    # All grids of squares over it have k times the rows and columns of the smallest.
    small = math.gcd(rows, columns)
    grids = {(k * rows // small) * (k * columns // small) for k in range(1, 80)}
    more = next(n for n in range(rows * columns + 1, 5000) if n not in grids)
    with pytest.raises(UnsupportedModelError, match=f"^{more} patch tokens are no grid"):
        grid_of(more, picture)


@pytest.mark.parametrize("picture", [(1, 100), (100, 1), (3, 1000)])
def test_a_strip_that_one_token_cannot_cover_is_refused(picture):
    with pytest.raises(UnsupportedModelError, match="1 patch tokens are no grid"):
        grid_of(1, picture)


@given(height=st.integers(8, 200), width=st.integers(8, 200), side=st.integers(4, 16))
def test_a_padded_grid_covers_the_picture_with_the_smallest_squares_of_so_many(height, width, side):
    def covering(side):
        return -(-height // side), -(-width // side)

    rows, columns = covering(side)
    found = padded_grid_of(rows * columns, (height, width))
    alike = [covering(s) for s in range(1, 201) if covering(s)[0] * covering(s)[1] == rows * columns]
    assert found == alike[0]


def test_what_covers_no_picture_is_refused_and_one_token_covers_any():
    with pytest.raises(UnsupportedModelError, match="7 patch tokens are no grid"):
        padded_grid_of(7, (20, 20))
    assert padded_grid_of(1, (20, 33)) == (1, 1)
    assert padded_grid_of(2, (20, 33)) == (1, 2)


def ramp(rows, columns, prefix):
    """(2, n, 3): a plane over rows and columns in each channel, another in each picture."""
    slopes = torch.tensor(
        [[[1.0, 10.0], [2.0, -3.0], [0.0, 5.0]], [[4.0, 1.0], [-2.0, 0.5], [7.0, 0.0]]]
    )
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    patches = torch.einsum("bcd,nd->bnc", slopes, places)
    return torch.cat([torch.full((2, prefix, 3), 99.0), patches], 1)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(("old", "new"), [((3, 5), (6, 7)), ((6, 4), (3, 8)), ((4, 7), (4, 7))])
def test_a_plane_stays_a_plane_on_another_grid(old, new, prefix):
    tokens = ramp(torch.arange(old[0]).float(), torch.arange(old[1]).float(), prefix)
    # Bilinear, centres of squares at halves; beyond the outermost centres it is constant.
    at = [((torch.arange(n) + 0.5) * o / n - 0.5).clamp(0, o - 1) for o, n in zip(old, new, strict=True)]
    torch.testing.assert_close(regrid(tokens, prefix, old, new), ramp(*at, prefix))


@pytest.mark.parametrize(("old", "new"), [((3, 5), (6, 7)), ((6, 4), (3, 8))])
def test_surroundings_are_the_neighbours_on_the_old_grid(old, new):
    tokens = torch.randn(2, old[0] * old[1], 3, generator=torch.Generator().manual_seed(0))
    found = surroundings(tokens, old, new).unflatten(2, (5, 3))
    assert AROUND[0] == (0, 0)
    assert sorted(AROUND) == [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]
    for number, (down, right) in enumerate(AROUND):
        rows = (torch.arange(old[0]) + down).clamp(0, old[0] - 1)
        columns = (torch.arange(old[1]) + right).clamp(0, old[1] - 1)
        shifted = tokens.unflatten(1, old)[:, rows][:, :, columns].flatten(1, 2)
        torch.testing.assert_close(found[:, :, number], regrid(shifted, 0, old, new))
