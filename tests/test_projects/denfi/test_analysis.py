"""The share of points near the taps, against loops; which points count; the picture."""

import math
from pathlib import Path

import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmpapers.models import DenseBoundaryProposal
from mmpapers.projects.denfi import analysis
from mmpapers.registry import MODELS
from mmpapers.visualization import bev

pytestmark = pytest.mark.det3d
TINY = Path(__file__).parents[3] / 'projects/denfi/configs/denfi_pointpillars_tiny-cpu.py'
BOX = torch.tensor([[.2, -.3, -1., 4., 2., 1.5, .6]])


def outline(box: torch.Tensor, count: int = 200) -> torch.Tensor:
    """Points (N, 3) on the four sides of a box, at half its height."""
    x, y, z, length, width, height, yaw = box.tolist()
    t, side = torch.rand(count) * 2 - 1, torch.arange(count) % 4
    along = torch.where(side < 2, (side * 2. - 1), t) * length / 2
    across = torch.where(side < 2, t, side * 2. - 5) * width / 2
    return torch.stack([x + along * math.cos(yaw) - across * math.sin(yaw),
                        y + along * math.sin(yaw) + across * math.cos(yaw), torch.full((count, ), z + height / 2)], 1)


def test_point_fraction_equals_loops() -> None:
    taps, points, inside = torch.rand(5, 9, 2) * 3, torch.rand(60, 2) * 3, torch.rand(5, 60) < .5
    inside[4] = False
    found = analysis.point_fraction(taps, points, inside, .4).tolist()
    for cell in range(4):
        own = [p for p, belongs in zip(points, inside[cell]) if belongs]
        near = sum(any(math.dist(p.tolist(), t.tolist()) <= .4 for t in taps[cell]) for p in own)
        assert found[cell] == pytest.approx(near / len(own))
    assert math.isnan(found[4])


def test_points_on_objects_without_ground() -> None:
    points = torch.tensor([[.2, -.3, 0.], [.2, -.3, -.97], [.2, -.3, .7], [3., 3., 0.]])
    boxes = torch.cat([BOX, BOX + torch.tensor([9., 0, 0, 0, 0, 0, 0])])
    assert analysis.object_points(points, boxes).tolist() == points[:1, :2].tolist()


def test_right_boundaries_come_nearer_to_the_points_than_a_regular_grid() -> None:
    """Points on the outline of a car: a perfect prediction equals the annotation and beats the grid of 0.5 m."""
    proposal = DenseBoundaryProposal(4, 1, [-8, -8, -3, 8, 8, 1], [.25, .25, 4], 2)
    target = proposal.targets(BOX[:, [0, 1, 3, 4, 6]], torch.tensor([0]))
    bins = torch.nn.functional.one_hot(target.bins, 4).permute(2, 0, 1) * 9.
    raw = torch.cat([target.distances.clamp(min=1e-3).log(), bins, target.residuals.expand(4, -1, -1)])
    above = torch.rand(500, 3) * torch.tensor([16., 16., 3.]) - torch.tensor([8., 8., -2.])
    cloud = torch.cat([outline(BOX[0]), above])
    cells = analysis.foreground_cells(proposal, raw, target, analysis.object_points(cloud, BOX))
    assert cells.points.shape == (200, 2) and cells.inside.all()
    assert len(cells.centres) == int(target.foreground.sum()) > 5
    torch.testing.assert_close(cells.predicted, cells.annotated, atol=1e-4, rtol=0)
    offset = cells.regular - cells.centres[:, None]
    assert torch.equal(offset.abs().amax(1), torch.full((len(offset), 2), .5))
    regular, predicted, annotated = analysis.mean_fractions([cells])
    assert predicted == pytest.approx(annotated) and predicted > 2 * regular
    everything = analysis.mean_fractions([cells], 10.)
    assert everything == pytest.approx((1., 1., 1.))


def test_frames_of_a_detector_and_their_picture(tmp_path: Path) -> None:
    cfg = Config.fromfile(TINY)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    box = torch.tensor([[12., 2., -1.7, 4., 2., 1.5, .4], [20., -5., -1.7, 1., 1., 1.7, 0.]])
    cloud = torch.cat([torch.cat([outline(b) for b in box]), torch.rand(400, 1)], 1)
    sample = Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes))
    sample.eval_ann_info = dict(gt_bboxes_3d=LiDARInstance3DBoxes(box), gt_labels_3d=torch.tensor([2, -1]).numpy())
    loader = [dict(inputs=dict(points=[cloud, cloud]), data_samples=[sample, sample])] * 2
    found = list(analysis.frames(model, loader, 3))
    assert len(found) == 3
    cells, points, boxes = found[-1]
    assert torch.equal(points, cloud) and torch.equal(boxes, box[:1])
    assert len(cells.centres) and cells.points.shape == (200, 2)
    assert all(0 <= value <= 1 for value in analysis.mean_fractions([c for c, *_ in found]))
    bev.save(analysis.draw(cells, points, boxes, 'a frame'), tmp_path / 'frame.png')
    assert (tmp_path / 'frame.png').stat().st_size > 5000
    assert not model.aux_neck.proposal._forward_hooks


def test_a_config_without_the_neck_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    plain = TINY.parents[3] / 'configs/lidar/pointpillars_toytown-cpu.py'
    assert analysis.main([str(plain)]) != 0
    assert 'has no model.aux_neck=dict(type="mmpapers.DENFINeck", ...)' in capsys.readouterr().err
    assert analysis.main([str(TINY), '--frames', '2', '--frame', '2']) != 0
    assert '--frame 2 must be one of the --frames 2' in capsys.readouterr().err
