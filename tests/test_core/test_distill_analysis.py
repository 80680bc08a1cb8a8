"""Figures about a distilled student: gradient shares, agreement, CKA, and the page that shows them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

from mmpapers.cli import benchmark_distill, distill_report
from mmpapers.distill import analysis

pytestmark = pytest.mark.core


def test_cka_is_blind_to_rotation_and_scale_and_sees_the_rest() -> None:
    x = torch.randn(400, 6)
    turn = torch.linalg.qr(torch.randn(6, 6))[0]
    assert analysis.linear_cka(x, 3 * x @ turn + 5) == pytest.approx(1, abs=1e-5)
    assert analysis.linear_cka(x, torch.randn(400, 4)) < .1
    y = torch.randn(400, 3) + x[:, :3]
    a, b = (rows.double() - rows.double().mean(0) for rows in (x, y))
    gram = (a @ a.T).flatten(), (b @ b.T).flatten()
    naive = (gram[0] @ gram[1]) / (gram[0].norm() * gram[1].norm())
    assert analysis.linear_cka(x, y) == pytest.approx(float(naive), rel=1e-9)


def test_rows_and_difference() -> None:
    maps = torch.arange(2 * 3 * 4 * 5.).view(2, 3, 4, 5)
    rows = analysis.rows(maps)
    assert rows.shape == (40, 3)
    assert torch.equal(rows[7], maps[0, :, 1, 2])
    assert len(analysis.rows(maps, 10)) == 10
    assert analysis.difference(maps, maps).abs().max() == 0
    assert analysis.difference(2 * maps, maps).square().mean() == pytest.approx(1, rel=1e-5)


def _boxes(*rows: tuple) -> InstanceData:
    values = torch.tensor(rows, dtype=torch.float).view(-1, 6)
    return InstanceData(bboxes=values[:, :4], labels=values[:, 4].long(), scores=values[:, 5])


def test_box_agreement() -> None:
    teacher = [_boxes((0, 0, 50, 50, 0, .9), (60, 60, 99, 99, 1, .8), (5, 5, 30, 30, 1, .1)),
               _boxes((9, 9, 70, 60, 1, .5))]
    sizes = [(100, 100)] * 2
    same = analysis.box_agreement(teacher, teacher, sizes)
    assert same['AP'] == pytest.approx(1)
    assert same['boxes'] == 3  # the one below 0.3 is not counted
    other = analysis.box_agreement([_boxes((0, 0, 50, 50, 0, .9)), _boxes()], teacher, sizes)
    assert other['AP'] == pytest.approx(.5)  # one class of two
    assert np.isnan(analysis.box_agreement(teacher, [_boxes(), _boxes()], sizes)['AP'])


def test_pixel_agreement() -> None:
    teacher = [np.array([[0, 0], [1, 1]])]
    assert analysis.pixel_agreement(teacher, teacher) == dict(pixels=1., mIoU=1.)
    found = analysis.pixel_agreement([np.array([[0, 1], [1, 1]])], teacher)
    assert found == dict(pixels=.75, mIoU=pytest.approx((1 / 2 + 2 / 3) / 2))


def test_gradient_shares_equal_single_backward_passes(tiny_pair: Callable) -> None:
    student, teacher, batch = tiny_pair('dense')
    init_default_scope('mmdet')
    MessageHub.get_instance('shares')
    model = MODELS.build(Config(dict(model=dict(
        type='mmpapers.FeatureMimic', student=student, teacher=teacher, checkpoint='random'))).model).train()
    data = model.data_preprocessor(batch(), True)
    shares = analysis.gradient_shares(model, data)
    assert set(shares) == {'loss_cls', 'loss_bbox', 'loss_mimic'}
    model.loss(**data)['loss_mimic'].backward()
    square = sum(float(p.grad.square().sum()) for n, p in model.named_parameters()
                 if p.grad is not None and not n.startswith('distill_helpers'))
    assert shares['loss_mimic'][1] == pytest.approx(square ** .5, rel=1e-3)


def test_the_report_shows_terms_agreement_and_pictures(kd: Path, capsys: pytest.CaptureFixture) -> None:
    from mmpapers.cli import train
    folder = kd
    assert train.main([str(folder / 'kd.py'), '--work-dir', str(folder / 'run'), '--cfg-options',
                       'train_cfg.max_epochs=1']) == 0
    page = folder / 'report.html'
    command = [str(folder / 'kd.py'), str(folder / 'run' / 'epoch_1.pth'), '--out', str(page), '--images', '2',
               '--batches', '1']
    assert distill_report.main(command) == 0
    assert 'loss_mimic' in capsys.readouterr().out
    text = page.read_text()
    for words in ('FeatureMimic[RetinaNet]', 'loss_mimic', 'features 0', 'Worst transfer', 'data:image/png;base64'):
        assert words in text
    assert 'holds no connectors' not in text
    torch.save(torch.load(folder / 'run' / 'epoch_1.pth', weights_only=False)['state_dict'], folder / 'bare.pth')
    assert distill_report.main([command[0], str(folder / 'bare.pth'), *command[2:]]) == 0
    assert 'holds no connectors' in page.read_text()
    assert distill_report.main([str(folder / 'student.py'), command[1], '--out', str(page)]) == 2
    assert 'has no `distill`' in capsys.readouterr().err


@pytest.mark.det
def test_the_report_compares_no_query_with_another_models(kd: Path, tiny_pair: Callable, capsys: pytest.CaptureFixture
                                                          ) -> None:
    student, teacher, _ = tiny_pair('query')
    cfg = Config.fromfile(kd / 'student.py')
    cfg.model = student
    (kd / 'queries.py').write_text(cfg.pretty_text)
    (kd / 'kd_detr.py').write_text("_base_ = ['./queries.py']\n" + Config(dict(distill=dict(
        type='mmpapers.KDDETR', teacher=teacher, checkpoint='random', num_general=5))).pretty_text)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save(model.state_dict(), kd / 'queries.pth')
    page = kd / 'queries.html'
    assert distill_report.main([str(kd / 'kd_detr.py'), str(kd / 'queries.pth'), '--out', str(page), '--images', '2',
                                '--batches', '1']) == 0
    assert 'loss_general_cls' in capsys.readouterr().out
    text = page.read_text()
    assert 'Both models' in text and 'data:image/png;base64' in text
    assert 'Linear CKA' not in text and 'Worst transfer' not in text and 'outputs 0' not in text


def test_the_cost_is_tabulated(kd: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_distill, '_memory', lambda words, task: 2**20)
    monkeypatch.setattr(torch, 'set_num_threads', lambda threads: None)
    assert benchmark_distill.main([str(kd / 'kd.py'), '--shape', '64', '--repeat', '1', '--batch-size', '2']) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| ')]
    assert [row.split(' | ')[0].strip('| ') for row in rows[2:6]] == list(benchmark_distill.TASKS)
    assert ' 1.00 |' in rows[6]
    assert benchmark_distill.main([str(kd / 'student.py')]) == 2
    assert 'has no `distill`' in capsys.readouterr().err


def test_memory_is_measured_in_a_fresh_process(kd: Path) -> None:
    words = [str(kd / 'kd.py'), '--shape', '64', '--batch-size', '2']
    assert benchmark_distill._memory(words, benchmark_distill.PLAIN) > 0
