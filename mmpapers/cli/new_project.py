"""Write a paper's slice: project folder, tiny config, README, metafile and tests that already pass the contracts."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

import mmpapers

TEMPLATES = Path(__file__).parent / 'templates'
KINDS = ('detection', 'segmentation')


def camel(name: str) -> str:
    """Turn a folder name into a class name: ``kd_detr`` becomes ``KdDetr``."""
    return ''.join(part.capitalize() for part in name.split('_'))


def write_project(root: Path, name: str, kind: str, class_name: str | None = None) -> list[Path]:
    """Write the slice ``projects/<name>`` and its tests under ``root``.

    Args:
        root: The repository.
        name: Folder name, snake case: the paper's short name.
        kind: ``'detection'`` or ``'segmentation'``.
        class_name: Paper's spelling of the method, ``'KDDETR'``; derived from ``name`` by default.

    Returns:
        The files written.

    Raises:
        ValueError: If the name is not snake case, or a file is there already.
    """
    if not re.fullmatch(r'[a-z][a-z0-9]*(_[a-z0-9]+)*', name):
        better = re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')
        raise ValueError(f'{name!r} is not a snake-case name; try {better!r}')
    fields = dict(name=name, cls=class_name or camel(name))
    project, tests = root / 'projects' / name, root / 'tests/test_projects' / name
    targets = {
        'README.md.tmpl': project / 'README.md',
        'metafile.yml.tmpl': project / 'metafile.yml',
        'head.py.tmpl': project / f'{name}_head.py',
        'tiny.py.tmpl': project / f'configs/{name}_tiny-cpu.py',
        'test.py.tmpl': tests / f'test_{name}_head.py',
    }
    present = [path for path in (project, tests) if path.exists()]
    if present:
        raise ValueError(f'{present[0].relative_to(root)} exists already; choose another name or remove it')
    written = [project / '__init__.py']
    for source, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        template = TEMPLATES / kind / source
        if not template.is_file():
            template = TEMPLATES / source
        target.write_text(Template(template.read_text('utf-8')).substitute(fields, kind=kind), 'utf-8')
        written.append(target)
    written[0].touch()
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Write a slice and say what to do next."""
    parser = argparse.ArgumentParser(prog='new_project.py', description=__doc__)
    parser.add_argument('name', help="folder name, snake case: the paper's short name (kd_detr)")
    parser.add_argument('--kind', choices=KINDS, default='detection', help='what the first component is (%(default)s)')
    parser.add_argument('--class-name', help="the paper's spelling (KDDETR); derived from the folder name by default")
    args = parser.parse_args(argv)
    root = Path(mmpapers.__file__).resolve().parents[1]
    if not (root / 'setup.py').is_file():
        parser.error('run this from a source checkout: a wheel has no tests folder to add to')
    try:
        written = write_project(root, args.name, args.kind, args.class_name)
    except ValueError as error:
        parser.error(str(error))
    print('\n'.join(f'wrote {path.relative_to(root)}' for path in written))
    print(f'\nThe slice works and passes the contracts:\n'
          f'  python -m pytest tests/test_projects/{args.name} tests/test_contracts -k {args.name}\n'
          f'Now make {args.name}_head.py the method of the paper. docs/add_your_paper.md walks through it.')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
