"""The table that compares ops with compiled kernels."""

import json
from pathlib import Path

import pytest
import torch

from mmpapers.cli import benchmark_ops

pytestmark = pytest.mark.core


@pytest.fixture(autouse=True)
def _threads() -> None:
    yield
    torch.set_num_threads(2)


def test_table_puts_figures_side_by_side() -> None:
    ours = [{'op': 'nms', 'size': '9', 'forward': 3.0, 'backward': None},
            {'op': 'roi_pool', 'size': '7', 'forward': 1.0, 'backward': 2.0}]
    theirs = [{'op': 'nms', 'size': '9', 'forward': 6.0, 'backward': None}]
    lines = benchmark_ops.table(ours, theirs).splitlines()
    assert lines[2] == '| nms | 9 | 6.0 | 3.0 | 0.50 |  |  |  |'
    assert lines[3] == '| roi_pool | 7 | none | 1.0 |  | none | 2.0 |  |'
    assert benchmark_ops.table(ours, []).splitlines()[2] == '| nms | 9 | 3.0 |  |'


def test_a_run_and_one_against_its_own_figures(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / 'rows.json'
    arguments = ['--only', 'bbox_overlaps', '--seconds', '0.01', '--json', str(out)]
    assert benchmark_ops.main(arguments) == 0
    rows = json.loads(out.read_text())
    assert [row['op'] for row in rows] == ['bbox_overlaps'] and rows[0]['forward'] > 0 and rows[0]['backward'] is None
    capsys.readouterr()
    assert benchmark_ops.main([*arguments[:4], '--against', str(out)]) == 0
    assert '| forward: compiled | ours | ratio |' in capsys.readouterr().out


def test_what_cannot_run_is_said(capsys: pytest.CaptureFixture) -> None:
    assert benchmark_ops.main(['--only', 'nmss']) == 2
    assert 'no case of nmss; there are: assign_score_withk ball_query' in capsys.readouterr().out
    for python in ('/no/such/python', '/bin/false'):
        assert benchmark_ops.main(['--only', 'bbox_overlaps', '--seconds', '0.01', '--against', python]) == 2
        assert 'needs torch, mmengine and a compiled mmcv (`make compiled`)' in capsys.readouterr().err
