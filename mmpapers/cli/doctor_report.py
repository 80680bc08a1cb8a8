"""How the doctor's findings are laid out for a person."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmpapers.cli.doctor import Component, Package, Problem


def _paint(text: str, colour: int) -> str:
    """Colour for terminals that want it."""
    wanted = sys.stdout.isatty() and not os.environ.get('NO_COLOR')
    return f'\033[{colour}m{text}\033[0m' if wanted else text


_MARK = {'ok': ('ok', 32), 'missing': ('-', 90), 'broken': ('BROKEN', 31)}


def full(report: dict, packages: 'Sequence[Package]', problems: 'Sequence[Problem]',
         components: 'Sequence[Component]') -> str:
    """The whole report: machine, packages, what is unavailable, what to do, verdict."""
    from mmpapers.cli.doctor import OPTIONAL, REQUIRED, TOOLBOXES
    lines = [f'mmpapers {report["mmpapers"]}', '',
             f'  python    {report["python"]}  ({report["executable"]})',
             f'  machine   {report["platform"]}, {report["cpus"]} CPUs',
             f'  device    {_device(report["facts"])}']
    for title, group in (('Needed', REQUIRED), ('Toolboxes', TOOLBOXES), ('Optional', OPTIONAL)):
        lines += ['', title]
        lines += [_package(package, report['facts']) for package in packages if package.name in group]
    lines += ['', *_availability(components, report['note'])]
    for level, title, colour in (('error', 'Must be mended', 31), ('warning', 'Worth knowing', 33)):
        found = [problem for problem in problems if problem.level == level]
        if found:
            lines += ['', _paint(title, colour)]
            for problem in found:
                lines += [f'  * {problem.message}', f'    {_paint("$ " + problem.fix, 36)}']
    lines += ['', _paint('The stack is usable.', 32) if report['usable'] else
              _paint('The stack is not usable as it is.', 31)]
    return '\n'.join(lines)


def components(found: 'Sequence[Component]', note: str) -> str:
    """One line a component, grouped by registry; what does not work says why."""
    if note:
        return note
    if not found:
        return 'No component matches.'
    lines = []
    width = max(len(component.name) for component in found)
    for registry in dict.fromkeys(component.registry for component in found):
        members = [component for component in found if component.registry == registry]
        lines += ['', f'{registry} ({len(members)})']
        for component in members:
            lacks = _paint(f'  needs {", ".join(component.missing)}', 31) if component.missing else ''
            lines.append(f'  mmpapers.{component.name:<{width}}  {component.module}{lacks}')
    return '\n'.join(lines[1:])


def _device(facts: dict) -> str:
    """What torch computes on."""
    if 'gpus' not in facts:
        return 'unknown (torch does not import)'
    if facts['gpus']:
        return f'CUDA {facts["cuda"]}: {", ".join(facts["gpus"])}'
    return 'Apple GPU (MPS)' if facts['mps'] else f'CPU ({facts["threads"]} threads)'


def _package(package: 'Package', facts: dict) -> str:
    """One line of the package table."""
    word, colour = _MARK[package.state]
    if package.name == 'mmcv' and package.state == 'ok':
        note = ('compiled; ops it lacks come from mmpapers' if facts.get('compiled')
                else 'without compiled ops; they come from mmpapers')
    else:
        note = package.needed_for
    owner = next(iter(package.distributions), '')
    version = package.version + (f' ({owner})' if owner and owner.lower() != package.name.lower() else '')
    return f'  {_paint(f"{word:<6}", colour)}  {package.name:<14} {version:<26} {note}'.rstrip()


def _availability(components: 'Sequence[Component]', note: str) -> list[str]:
    """How many components work, and which do not because of what."""
    from mmpapers.cli.doctor import pip_line
    if note:
        return [f'Components: {note}']
    blocked = [component for component in components if component.missing]
    lines = [f'Components: {len(components) - len(blocked)} of {len(components)} available'
             + ('' if blocked else '  (python -m mmpapers.doctor --components lists them)')]
    for package in sorted({name for component in blocked for name in component.missing}):
        names = [f'mmpapers.{component.name}' for component in blocked if package in component.missing]
        shown = ', '.join(names[:6]) + (f' and {len(names) - 6} more' if len(names) > 6 else '')
        lines += [f'  without {package}: {shown}', f'    {_paint("$ " + pip_line(package), 36)}']
    return lines
