"""Boundaries from cells: round trip, places of the taps, rotation, the order of the offsets."""

import math

import pytest
import torch
from torch import Tensor

from mmpapers.projects.denfi.geometry import (
    BEVGrid,
    boundary_distances,
    decode_angle,
    deform_offsets,
    encode_angle,
    local_coordinates,
    make_grid,
    regular_positions,
    sampling_positions,
)

pytestmark = pytest.mark.det3d
GRID = BEVGrid((-4., -4.), (.5, .5), (16, 16))


def boxes(count: int = 12) -> Tensor:
    """Random boxes (N, 5) around the middle of the grid, yaw over several turns."""
    centre, size = torch.rand(count, 2) * 4 - 2, torch.rand(count, 2) * 3 + .5
    return torch.cat([centre, size, torch.rand(count, 1) * 20 - 10], 1).double()


def nine_points(box: Tensor) -> Tensor:
    """Corners, middles of the sides and the centre (9, 2) of a box (5,), as a loop."""
    x, y, length, width, yaw = box.tolist()
    return torch.tensor([(x + u * length / 2 * math.cos(yaw) - v * width / 2 * math.sin(yaw),
                          y + u * length / 2 * math.sin(yaw) + v * width / 2 * math.cos(yaw))
                         for v in (-1, 0, 1) for u in (-1, 0, 1)], dtype=box.dtype)


def taps_of(box: Tensor, grid: BEVGrid = GRID, bins: int = 4) -> Tensor:
    """Taps (H, W, 9, 2) in the plane for a prediction that is right in every cell."""
    axis = decode_angle(*encode_angle(box[4:], bins)[1:], bins)
    distances = boundary_distances(local_coordinates(grid, box[None, :2], axis)[:, 0], box[2:4, None, None])
    placed = sampling_positions(distances[None], axis.expand(1, *grid.size))[0]
    y, x = torch.meshgrid(*grid.centres(box)[::-1], indexing='ij')
    return placed.permute(3, 4, 0, 1, 2).flatten(2, 3) + torch.stack([x, y], -1)[:, :, None]


@pytest.mark.parametrize('bins', [1, 2, 4, 7])
def test_angles_round_trip_modulo_half_a_turn(bins: int) -> None:
    yaw = torch.cat([torch.linspace(-12, 12, 481), torch.arange(-8, 9) * math.pi / 8,
                     torch.tensor([-1e-9, 1e-9, math.pi - 1e-7])])
    axis, index, residual = encode_angle(yaw, bins)
    assert index.min() >= 0 and index.max() == bins - 1
    assert residual.abs().max() <= 1 + 1e-5
    decoded = decode_angle(index, residual, bins)
    torch.testing.assert_close(decoded, axis)
    torch.testing.assert_close(torch.sin(decoded - yaw), torch.zeros_like(yaw), atol=1e-5, rtol=0)
    aligned = encode_angle(torch.tensor([0., math.pi, -math.pi, 2 * math.pi]), bins)
    assert not aligned[1].any()
    torch.testing.assert_close(aligned[2], torch.zeros(4), atol=1e-5, rtol=0)


def test_right_predictions_sample_corners_sides_and_centre() -> None:
    """For every cell, inside or not: the encoded boundary gives back the box."""
    for box in boxes():
        expected, found = nine_points(box), taps_of(box)
        gap = torch.cdist(found.flatten(0, 1), expected.expand(256, 9, 2))
        assert gap.amin(1).max() < 1e-5 and gap.amin(2).max() < 1e-5
        torch.testing.assert_close(found[..., 4, :], box[:2].expand(16, 16, 2), atol=1e-5, rtol=0)


def test_distances_of_known_cell() -> None:
    """A box of 4 x 2 m at (1, 2), turned left by 90 degrees; the cell centre (1.25, 1.25)."""
    grid = BEVGrid((0., 0.), (.5, .5), (8, 8))
    axis = torch.tensor([math.pi / 2])
    local = local_coordinates(grid, torch.tensor([[1., 2.]]), axis)[:, 0, 2, 2]
    left, right, top, bottom = boundary_distances(local, torch.tensor([4., 2.])).tolist()
    assert (left, right) == pytest.approx((1.25, 2.75))  # backwards is down the y axis
    assert (top, bottom) == pytest.approx((1.25, .75))  # to the left is down the x axis


def test_a_cell_of_distance_gives_no_offset() -> None:
    grid = BEVGrid((0., 0.), (.5, .25), (4, 6))
    distances = torch.tensor([.5, .5, .25, .25])[None, :, None, None].expand(2, 4, 4, 6)
    placed = sampling_positions(distances, torch.zeros(2, 4, 6))
    torch.testing.assert_close(placed, regular_positions(grid, placed).expand_as(placed))
    assert not deform_offsets(placed, grid).any()


def test_offsets_are_y_then_x_in_cells_row_by_row() -> None:
    """Taps moved by 1 m along x only, then along y only; cells of 0.5 x 0.25 m."""
    grid = BEVGrid((0., 0.), (.5, .25), (2, 3))
    for axis, cells in ((0, 2.), (1, 4.)):
        placed = regular_positions(grid, torch.zeros(1)).repeat(1, 1, 1, 1, 2, 3)
        placed[:, :, :, axis] += 1
        offsets = deform_offsets(placed, grid).view(1, 9, 2, 2, 3)
        torch.testing.assert_close(offsets[:, :, 1 - axis], torch.full((1, 9, 2, 3), cells))
        assert not offsets[:, :, axis].any()
    placed = regular_positions(grid, torch.zeros(1)).repeat(1, 1, 1, 1, 2, 3)
    placed[:, 0, 2, 0] += 1  # first row of the kernel (right, -y), last column (front, +x)
    moved = deform_offsets(placed, grid)[0, :, 0, 0].nonzero().flatten().tolist()
    assert moved == [2 * 2 + 1]


def test_rotating_the_scene_rotates_the_taps() -> None:
    for box in boxes(4):
        turned = torch.stack([-box[1], box[0], box[2], box[3], box[4] + math.pi / 2])
        one, other = taps_of(box), taps_of(turned)
        expected = torch.stack([-one[..., 1], one[..., 0]], -1).transpose(0, 1).flip(1)
        gap = torch.cdist(other.flatten(0, 1), expected.flatten(0, 1))
        assert gap.amin(1).max() < 1e-5 and gap.amin(2).max() < 1e-5


def test_make_grid() -> None:
    grid = make_grid([0, -39.68, -3, 69.12, 39.68, 1], [.16, .16, 4], 2)
    assert grid.size == (248, 216) and grid.cell == pytest.approx((.32, .32))
    x, y = grid.centres(torch.zeros(1))
    assert x[0] == pytest.approx(.16) and y[-1] == pytest.approx(39.52) and (len(y), len(x)) == grid.size
    with pytest.raises(ValueError, match=r'proposal.point_cloud_range=\[0, 0, 0, 10, 8, 1\] is 3.33 x 2.67 cells'):
        make_grid([0, 0, 0, 10, 8, 1], [1, 1], 3)
    for wrong in (([0, 0, 1, 1], [1, 1], 1), ([0, 0, 0, 1, 1, 1], [1], 1), ([0, 0, 0, 1, 1, 1], [1, 0], 1),
                  ([0, 0, 0, 1, 1, 1], [1, 1], 0)):
        with pytest.raises(ValueError, match='six numbers, proposal.voxel_size two or three positive'):
            make_grid(*wrong)
