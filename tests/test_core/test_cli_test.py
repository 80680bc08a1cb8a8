"""``tools/test.py``: metrics, pictures and results, for good input and for bad."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from mmpapers.cli import test as cli
from mmpapers.cli.test import main

pytestmark = pytest.mark.core


def checkpoint_of(config: Path) -> Path:
    """Weights of a freshly built model of a config."""
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
    path = config.with_suffix('.pth')
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(cfg.classes))), path)
    return path


def result_folder(work_dir: Path) -> Path:
    """Folder of the only test in a work dir."""
    folder, = (path.parent for path in work_dir.glob('*/metrics.json'))
    return folder


def test_a_detector_is_tested_drawn_and_dumped(detection_config: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / 'results.pkl'
    assert main([str(detection_config), str(checkpoint_of(detection_config)), '--work-dir', str(tmp_path / 'run'),
                 '--show-dir', 'pictures', '--out', str(out), '--score-thr', '0.02']) == 0
    printed = capsys.readouterr().out
    assert 'coco/bbox_mAP' in printed and '-----' in printed and 'pictures' in printed and 'WARNING' not in printed
    folder = result_folder(tmp_path / 'run')
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert 0 <= metrics['coco/bbox_mAP'] <= 1
    assert sorted(p.name for p in (folder / 'pictures').iterdir()) == [f'{i:03}.png' for i in range(8)]
    results = pickle.loads(out.read_bytes())
    assert len(results) == 8 and 'pred_instances' in results[0]


def test_a_segmentor_is_tested_drawn_and_written(segmentation_config: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / 'labels'
    assert main([str(segmentation_config), str(checkpoint_of(segmentation_config)), '--work-dir',
                 str(tmp_path / 'run'), '--show-dir', str(tmp_path / 'pictures'), '--out', str(out)]) == 0
    printed = capsys.readouterr().out
    assert 'mIoU' in printed and '| ground |' in printed, 'the table per class belongs on the screen'
    assert 0 <= json.loads((result_folder(tmp_path / 'run') / 'metrics.json').read_text())['mIoU'] <= 100
    drawn = sorted((tmp_path / 'pictures').iterdir())
    assert [p.name for p in drawn] == [f'{i:03}.png' for i in range(8)]
    picture = np.asarray(Image.open(drawn[0]))
    assert picture.shape[1] >= 2 * 64, 'ground truth beside prediction'
    labels = np.asarray(Image.open(out / '000.png'))
    assert labels.shape == (48, 64) and set(np.unique(labels)) <= {0, 1, 2}


def test_tta_by_default_flips_detections(detection_config: Path) -> None:
    cfg = Config.fromfile(detection_config)
    cli.set_tta(cfg)
    assert cfg.model.type == 'DetTTAModel' and cfg.model.module.type == 'FCOS'
    flips = cfg.test_dataloader.dataset.pipeline[-1]
    assert flips.type == 'TestTimeAug' and [t.prob for t in flips.transforms[0]] == [1., 0.]


def test_tta_runs(detection_config: Path, tmp_path: Path) -> None:
    assert main([str(detection_config), str(checkpoint_of(detection_config)), '--work-dir', str(tmp_path / 'run'),
                 '--tta']) == 0
    assert 'coco/bbox_mAP' in json.loads((result_folder(tmp_path / 'run') / 'metrics.json').read_text())


def test_a_missing_or_broken_checkpoint_is_one_sentence(detection_config: Path, tmp_path: Path, capsys) -> None:
    good = checkpoint_of(detection_config)
    assert main([str(detection_config), str(good.with_name('detecter.pth'))]) == 2
    error = capsys.readouterr().err
    assert "detecter.pth' does not exist; did you mean" in error and 'detector.pth' in error
    broken = tmp_path / 'broken.pth'
    broken.write_bytes(good.read_bytes()[:3000])
    assert main([str(detection_config), str(broken), '--work-dir', str(tmp_path / 'run')]) == 1
    error = capsys.readouterr().err
    assert 'broken.pth is truncated or damaged' in error and 'Traceback' not in error


class Loud:
    """A pickle that does something when it is loaded."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path(LOUD),))


LOUD = ''


def test_a_pickle_that_runs_code_is_refused_unless_trusted(detection_config: Path, tmp_path: Path, capsys, monkeypatch
                                                           ) -> None:
    monkeypatch.setattr(f'{__name__}.LOUD', str(tmp_path / 'was_here'))
    good = checkpoint_of(detection_config)
    torch.save(dict(torch.load(good), extra=Loud()), good)
    command = [str(detection_config), str(good), '--work-dir', str(tmp_path / 'run')]
    assert main(command) == 1
    assert '--trust-checkpoint' in capsys.readouterr().err and not (tmp_path / 'was_here').exists()
    assert main([*command, '--trust-checkpoint']) == 0
    assert (tmp_path / 'was_here').exists()
    from mmpapers.compat import checkpoint
    assert not checkpoint.is_trusted(good), 'trust ends with the command'


@pytest.mark.parametrize('change, arguments, message', [
    ('test_cfg = test_evaluator = None\n', [], 'sets no test_cfg, test_evaluator'),
    ('default_hooks.pop("visualization")\n', ['--show-dir', 'x'], 'need default_hooks.visualization'),
    ('', ['--out', 'folder'], 'predictions of this config go to a .pkl file')])
def test_wrong_command_lines_are_one_sentence(detection_config: Path, capsys, change: str, arguments: list[str],
                                              message: str) -> None:
    checkpoint = checkpoint_of(detection_config)
    detection_config.write_text(detection_config.read_text() + change)
    assert main([str(detection_config), str(checkpoint), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


def test_table_is_aligned_and_leaves_lists_out() -> None:
    lines = cli.table({'coco/mAP': 0.51239, 'n': 3, 'per_class': [1, 2]}).splitlines()
    assert lines[1:] == ['metric     value', '--------  ------', 'coco/mAP  0.5124', 'n              3']
    assert cli.table({}).startswith('no metrics')
