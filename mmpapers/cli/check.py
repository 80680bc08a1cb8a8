"""``tools/check.py``: find mistakes in a config and its data before a run; ``tools/train.py`` runs it too."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, DictAction

from mmpapers import compat

from . import console, runtime
from .checks.components import check_components
from .checks.data import check_data
from .checks.distill import check_distill
from .checks.finding import Finding
from .checks.heads import check_evaluator, check_heads, check_preprocessor
from .checks.keys import check_keys, check_unreached, check_untyped
from .checks.paths import check_paths
from .checks.source import ConfigSource, read

__all__ = ['Finding', 'add_config_arguments', 'check_config', 'main', 'report']

_ORDER = ('error', 'warning', 'info')
_COLOURS = {'error': '\033[1;31m', 'warning': '\033[1;33m', 'info': '\033[2m'}


def check_config(cfg: Config, data: bool = True) -> list[Finding]:
    """Check a config, and the data that it names.

    Args:
        cfg: The resolved config. Where ``cfg.filename`` is set, the files of its inheritance chain are read too.
        data: Whether to look at paths, annotation files and images.

    Returns:
        Findings, errors first; empty for a config without fault.
    """
    source = _source(cfg)
    findings = [*check_keys(cfg, source), *check_untyped(cfg), *check_unreached(cfg, source), *check_components(cfg)]
    if data:
        findings += [*check_paths(cfg), *check_data(cfg)]
    findings += [*check_heads(cfg), *check_evaluator(cfg), *check_preprocessor(cfg), *check_distill(cfg, data)]
    unique = list(dict.fromkeys(findings))
    return sorted(unique, key=lambda finding: _ORDER.index(finding.level))


def _source(cfg: Config) -> ConfigSource | None:
    """Files of a text config; None for one made in memory or a pure-Python one."""
    if not cfg.filename or not Path(cfg.filename).is_file():
        return None
    source = read(cfg.filename)
    return None if source.lazy else source


def report(findings: Sequence[Finding], colour: bool | None = None) -> str:
    """Write findings for a person, grouped by level.

    Args:
        findings: What :func:`check_config` returned.
        colour: Whether to use terminal colours; by default if stdout is a terminal.
    """
    colour = sys.stdout.isatty() if colour is None else colour
    lines = []
    for level in _ORDER:
        group = [finding for finding in findings if finding.level == level]
        for finding in group:
            tag = f'{_COLOURS[level]}{level:7}\033[0m' if colour else f'{level:7}'
            lines.append(f'{tag} {finding.where}\n        {finding.message}')
            if finding.fix:
                lines.append(f'        -> {finding.fix}')
        lines += [''] if group else []
    counts = {level: sum(finding.level == level for finding in findings) for level in _ORDER}
    lines.append(', '.join(f'{counts[level]} {level}{"s" * (counts[level] != 1 and level != "info")}'
                           for level in _ORDER if counts[level]) or 'No mistake found.')
    return '\n'.join(lines)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every tool takes: the config and ``--cfg-options``."""
    parser.add_argument('config', help='config file of mmdet, mmseg, mmdet3d or mmpapers')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', default={},
                        help='override values, e.g. model.backbone.depth=18 train_dataloader.batch_size=2')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checker.

    Returns:
        0 if there is no error, 1 if there is one, 2 if the config cannot be read.
    """
    parser = argparse.ArgumentParser('check', description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('--no-data', action='store_true', help='judge the config alone, not paths and data')
    parser.add_argument('--json', action='store_true', help='write the findings as JSON')
    args = parser.parse_args(argv)
    return runtime.run(lambda: _check(args))


def _check(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`."""
    compat.setup()
    with console.quiet_stack():
        cfg = runtime.read_config(args.config, args.cfg_options)
        findings = check_config(cfg, data=not args.no_data)
    print(json.dumps([finding.as_dict() for finding in findings], indent=2) if args.json else report(findings))
    return int(any(finding.level == 'error' for finding in findings))


if __name__ == '__main__':
    raise SystemExit(main())
