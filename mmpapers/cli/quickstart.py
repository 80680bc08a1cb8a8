"""The main job of ``make quickstart``: make Toytown, train a small TTFNet, test it, draw what it sees.

Every step is the command that a user would type; it is printed before it runs. Called again, it goes on where it
stopped.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import mmpapers.projects

CONFIG = 'ttfnet/configs/ttfnet_r18_toytown.py'


class StepFailed(Exception):
    """A step that ended with an exit code other than 0."""


def find_config(name: str) -> Path:
    """Return a project's config, in a checkout or in an installed wheel."""
    return next(path for root in mmpapers.projects.__path__ if (path := Path(root) / name).is_file())


def step(title: str, *arguments: str | Path) -> None:
    """Print a command and run it with this interpreter.

    Raises:
        StepFailed: With what to do about it.
    """
    command = ['mmpapers', *map(str, arguments)]
    if arguments[0] == 'mmpapers.datasets.toytown':
        command = ['python', '-m', *map(str, arguments)]
        run = [sys.executable, '-m', *map(str, arguments)]
    else:
        run = [sys.executable, '-m', 'mmpapers', *map(str, arguments)]
    print(f'\n== {title}\n$ {shlex.join(command)}', flush=True)
    code = subprocess.run(run).returncode
    if code:
        raise StepFailed(f'"{title}" ended with exit code {code}; the lines above say why. Mend it and run '
                         '`make quickstart` again: it goes on from here.')


def _relative(path: Path) -> Path:
    """The shorter of the two ways to write a path."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the main job.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        0, 1 if a step failed, 130 if interrupted.
    """
    parser = argparse.ArgumentParser(prog='mmpapers quickstart', description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=Path('data/toytown'), help='where Toytown is (or will be) written')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/quickstart'),
                        help='checkpoints, logs, pictures')
    parser.add_argument('--train', type=int, default=400, help='training scenes')
    parser.add_argument('--val', type=int, default=100, help='validation scenes')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='changes of the config')
    args = parser.parse_args(argv)
    start = time.time()
    config = _relative(find_config(CONFIG))
    options = [] if args.data == Path('data/toytown') else [
        f'{loader}_dataloader.dataset.data_root={args.data}/' for loader in ('train', 'val', 'test')] + [
        f'{split}_evaluator.ann_file={args.data}/annotations/instances_val.json' for split in ('val', 'test')]
    options = ['--cfg-options', *options, *args.cfg_options] if options or args.cfg_options else []
    try:
        step('1/3 Make the data: rendered street scenes in COCO, Cityscapes and TuSimple formats',
             'mmpapers.datasets.toytown', args.data, '--train', str(args.train), '--val', str(args.val))
        if not _finished(args.work_dir):
            step('2/3 Train', 'train', config, '--work-dir', args.work_dir, '--seed', '0', '--resume', *options)
            (args.work_dir / 'finished').write_text(_digest(config), 'utf-8')
        checkpoint = Path((args.work_dir / 'last_checkpoint').read_text('utf-8').strip())
        step('3/3 Test', 'test', config, _relative(checkpoint), '--work-dir', args.work_dir / 'test',
             '--show-dir', 'pictures', *options)
    except StepFailed as failure:
        print(f'\nStopped: {failure}')
        return 1
    except KeyboardInterrupt:
        print('\nStopped. `make quickstart` goes on from here.')
        return 130
    summarise(args.work_dir, checkpoint, time.time() - start)
    return 0


def _digest(config: Path) -> str:
    """What the finished training was trained from."""
    import hashlib
    return hashlib.sha256(config.read_bytes()).hexdigest()


def _finished(work_dir: Path) -> bool:
    """Whether an earlier call trained the very same config to its end."""
    mark = work_dir / 'finished'
    return mark.is_file() and mark.read_text('utf-8') == _digest(find_config(CONFIG))


def summarise(work_dir: Path, checkpoint: Path, seconds: float) -> None:
    """Print the table of the run and where everything lies."""
    newest = max(work_dir.glob('test/**/metrics.json'), key=lambda path: path.stat().st_mtime)
    metrics = json.loads(newest.read_text('utf-8'))
    rows = [(name, metrics[key]) for key, name in (
        ('coco/bbox_mAP', 'AP (IoU 0.50:0.95)'), ('coco/bbox_mAP_50', 'AP50'), ('coco/bbox_mAP_75', 'AP75'),
        ('coco/bbox_mAP_s', 'AP small'), ('coco/bbox_mAP_m', 'AP medium'), ('coco/bbox_mAP_l', 'AP large'))
        if key in metrics]
    print(f'\n== TTFNet on Toytown\n{"metric":<20} value\n{"-" * 26}')
    print('\n'.join(f'{name:<20} {value:.3f}' for name, value in rows))
    pictures = sorted(newest.parents[0].rglob('pictures')) or sorted(work_dir.rglob('pictures'))
    curves = sorted(work_dir.rglob('*.png'), key=lambda path: path.stat().st_mtime)
    curves = [c for c in curves if 'pictures' not in c.parts]
    print(f'\ncheckpoint  {_relative(checkpoint)}')
    print(f'pictures    {_relative(pictures[-1])}' if pictures else '', end='\n' if pictures else '')
    print(f'curves      {_relative(curves[-1])}' if curves else '', end='\n' if curves else '')
    print(f'time        {seconds / 60:.1f} min')
    print('\nNext: docs/get_started.md, or your own data: `mmpapers check my_config.py`')


if __name__ == '__main__':
    raise SystemExit(main())
