"""Write a distillation overlay for a config: which method, which teacher, and what it chose by itself and why."""

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import console, runtime


def main(argv: Sequence[str] | None = None) -> int:
    """Write the overlay.

    Args:
        argv: Command line; that of the process by default.

    Returns:
        0; 2 if config, method, teacher or checkpoint is wrong.
    """
    parser = argparse.ArgumentParser('apply_distill', description=__doc__)
    parser.add_argument('config', help="the student's config; it stays as it is")
    parser.add_argument('--method', required=True, help='a distiller, upper or lower case: maskd, dist, pkd, cwd, ...')
    parser.add_argument('--teacher', required=True, help="config of the teacher: a path or 'mmdet::<folder>/<name>.py'")
    parser.add_argument('--checkpoint', help="the teacher's weights (default: the newest in work_dirs/<teacher>)")
    parser.add_argument('--out', help='file to write (default: <config>_<method>.py beside the config)')
    parser.add_argument('--force', action='store_true', help='replace the file if it exists')
    args = parser.parse_args(argv)
    return runtime.run(lambda: apply(args))


def apply(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`.

    Raises:
        UserError: If the method is unknown, the file exists, or the teacher has no weights.
    """
    from mmengine.registry import MODELS, init_default_scope

    from mmpapers import compat
    from mmpapers.distill.overlay import expand
    with console.quiet_stack():
        compat.setup()
        name = find_method(args.method)
        cfg = runtime.read_config(args.config)
        out = Path(args.out or default_name(args.config, name))
        if out.exists() and not args.force:
            raise runtime.UserError(f'{out} exists; name another --out, or say --force')
        checkpoint = args.checkpoint or newest(args.teacher)
        text = overlay(args.config, out, name, args.teacher, checkpoint)
        cfg.distill = dict(type=f'mmpapers.{name}', teacher=args.teacher, checkpoint=checkpoint)
        expand(cfg)
        init_default_scope(cfg.get('default_scope') or 'mmengine')
        model = MODELS.build(cfg.model)
        chosen = explain(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, 'utf-8')
    print(f'{out}\n\n{text}\n{chosen}\n\nTrain it:  python tools/train.py {out}\nThe checkpoint is a plain student:  '
          f'python tools/test.py {args.config} <checkpoint>')
    return 0


def distillers() -> dict[str, type]:
    """All registered distillers by name."""
    from mmpapers import registry
    from mmpapers.distill import Distiller
    found = {}
    for symbol, name, module in registry.scan():
        if symbol == 'MODELS' and ('.distill.' in module or '.projects.' in module):
            try:
                component = registry.load(symbol, name)
            except ImportError:
                continue
            if inspect.isclass(component) and issubclass(component, Distiller):
                found[name] = component
    return found


def find_method(text: str) -> str:
    """Registered name of a method.

    Raises:
        UserError: If there is no such method, with all there are.
    """
    known = distillers()
    same = [name for name in known if name.lower() == text.removeprefix('mmpapers.').lower().replace('-', '')]
    if not same:
        lines = '\n'.join(f'  {name:14} {inspect.getdoc(known[name]).splitlines()[0]}' for name in sorted(known))
        raise runtime.UserError(f'--method {text!r} does not exist; there are\n{lines}')
    return same[0]


def default_name(config: str, method: str) -> Path:
    """Where the overlay goes if nobody says: beside a local config, else into the current folder."""
    path = Path(config.rpartition('::')[2])
    folder = Path() if '::' in config else path.parent
    return folder / f'{path.stem}_{method.lower()}.py'


def newest(teacher: str) -> str:
    """The newest checkpoint of a teacher in its default work dir.

    Raises:
        UserError: If there is none.
    """
    from mmpapers.hooks.checkpoint import find_latest
    folder = Path('work_dirs') / Path(teacher.rpartition('::')[2]).stem
    found = find_latest(folder)[0] if folder.is_dir() else None
    if found is None:
        raise runtime.UserError(f'no --checkpoint was given and {folder} holds none; train the teacher (tools/train.py '
                                f'{teacher}) or name its file')
    return found


def overlay(config: str, out: Path, method: str, teacher: str, checkpoint: str) -> str:
    """Text of the overlay."""
    base = config if '::' in config else _relative(Path(config), out.parent)
    return (f'"""{Path(config).stem} distilled by {method}."""\n_base_ = [{base!r}]\n\n'
            f"distill = dict(\n    type='mmpapers.{method}',\n    teacher={teacher!r},\n"
            f'    checkpoint={checkpoint!r})\n')


def _relative(path: Path, folder: Path) -> str:
    """A path as a config in ``folder`` names it."""
    import os
    text = os.path.relpath(path.resolve(), folder.resolve())
    return text if text.startswith('.') else f'./{text}'


def explain(model: Any) -> str:
    """What a built distiller looks at, how it connects it, and with which weights."""
    from mmpapers.distill.presets import family
    lines = [f'student  {type(model).__name__.partition("[")[2][:-1]} (family {family(model) or "unknown"})',
             f'teacher  {type(model.teacher.model).__name__} (family {family(model.teacher.model) or "unknown"})'
             if model.teacher else 'teacher  none: this method has none']
    for role in model.taps_of['student']:
        student, teacher = model.taps_of['student'][role], model.taps_of['teacher'].get(role, 'nothing')
        links = getattr(model.helpers['connectors'], role, [])
        built = sorted({str(link.layer) for link in links if str(link.layer) != 'Identity()'})
        how = '; '.join(built) if built else 'compared as they are'
        lines.append(f'{role:8} {student}  <-  {teacher}   {len(links) or ""} {how}'.rstrip())
    lines += [f'weight   {name} {weight.value:g}' + (f', warm-up {weight.warmup} steps' if weight.warmup else '')
              for name, weight in model.term_weights.items()]
    lines.append('Taps are the presets of the families, widths come from a dry run, weights are the defaults of the '
                 'method; all can be set in `distill`.')
    return '\n'.join(lines)


if __name__ == '__main__':
    raise SystemExit(main())
