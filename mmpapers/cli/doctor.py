"""Examine the environment: packages, conflicts, and which components work. Needs the standard library only.

Everything that could crash is imported in a process of its own, so a broken torch or a package compiled for another
one is reported and does not end the report.
"""

import argparse
import ast
import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import mmpapers
from mmpapers.compat import versions

# Import name -> what needs it. The first five make the stack usable; without the others something smaller is missing.
REQUIRED = {'torch': 'everything', 'numpy': 'everything', 'mmengine': 'registry, configs, training',
            'mmcv': 'image transforms, layers', 'cv2': 'reading and drawing images'}
TOOLBOXES = {'mmdet': 'detection', 'mmseg': 'segmentation', 'mmdet3d': 'point clouds'}
OPTIONAL = {'numba': 'fast CPU ops, KITTI metric', 'pycocotools': 'COCO data and metric', 'scipy': 'DETR matching',
            'shapely': 'instance masks', 'matplotlib': 'pictures and curves', 'spconv': 'fast sparse convolutions',
            'nuscenes': 'nuScenes metric', 'torchvision': 'names of torchvision weights',
            'ftfy': 'text tokenizer of mmseg', 'regex': 'text tokenizer of mmseg', 'terminaltables': 'metric tables'}
# Imported after compat.setup(): the parts of the toolboxes that fail first.
PARTS = {'mmcv': 'mmcv.ops', 'mmdet': 'mmdet.models', 'mmseg': 'mmseg.models', 'mmdet3d': 'mmdet3d.models'}
OPENMMLAB = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmdet3d')


@dataclasses.dataclass
class Package:
    """State of one import name: ``state`` is 'ok', 'missing' or 'broken'; ``fix`` is a shell line or empty."""

    name: str
    needed_for: str
    state: str
    version: str = ''
    distributions: dict[str, str] = dataclasses.field(default_factory=dict)
    detail: str = ''
    fix: str = ''


@dataclasses.dataclass
class Problem:
    """Something to mend: ``level`` is 'error' (the stack is not usable as it is) or 'warning'."""

    level: str
    message: str
    fix: str


@dataclasses.dataclass
class Component:
    """A registered class; ``missing`` names the packages that keep it from working."""

    registry: str
    name: str
    module: str
    missing: list[str]


def probe(names: Sequence[str]) -> None:
    """Import modules one after the other and print a JSON line before and after each (runs in a child process)."""
    for name in names:
        print(json.dumps({'begin': name}), flush=True)
        result = {'end': name, 'error': '', 'facts': {}}
        try:
            if name == 'mmpapers.compat':
                importlib.import_module(name).setup()
            module = importlib.import_module(name)
            if name == 'torch':
                result['facts'] = _torch_facts(module)
            elif name == 'mmcv':
                result['facts'] = {'compiled': importlib.util.find_spec('mmcv._ext') is not None}
        except BaseException as error:  # a broken package may raise anything, SystemExit included
            text = str(error).strip().partition('\n')[0]
            result['error'] = f'{type(error).__name__}: {text}'[:300]
        print(json.dumps(result), flush=True)


def _torch_facts(torch: object) -> dict:
    """Devices that this torch can use."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = getattr(torch.backends, 'mps', None)
    return {'cuda': torch.version.cuda, 'gpus': [torch.cuda.get_device_name(i) for i in range(count)],
            'mps': bool(mps and mps.is_available()), 'threads': torch.get_num_threads()}


def run_probe(names: Sequence[str], timeout: float = 120) -> dict[str, dict]:
    """Import ``names`` in child processes; one that crashes or hangs counts against the module it was importing.

    Args:
        names: Modules, in this order.
        timeout: Seconds for all of them.

    Returns:
        Module -> ``{'error': sentence or '', 'facts': {...}}``.
    """
    found: dict[str, dict] = {}
    left = list(names)
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, [
        str(Path(mmpapers.__file__).parents[1]), os.environ.get('PYTHONPATH')]))}
    while left:
        code = f'from mmpapers.cli.doctor import probe; probe({left!r})'
        try:
            done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=env, capture_output=True, text=True,
                                  timeout=timeout)
            output, how = done.stdout, f'the import crashed Python (exit code {done.returncode})'
        except subprocess.TimeoutExpired as error:
            output, how = (error.stdout or b'').decode(), f'the import did not end within {timeout:.0f} s'
        begun = None
        for line in output.splitlines():
            with_json = re.match(r'\{.*\}$', line)
            record = json.loads(line) if with_json else {}
            begun = record.get('begin', begun)
            if 'end' in record:
                found[record['end']] = {'error': record['error'], 'facts': record['facts']}
        if begun is not None and begun not in found:
            found[begun] = {'error': how, 'facts': {}}
        elif begun is None:
            found.update({name: {'error': how, 'facts': {}} for name in left})
        left = [name for name in left if name not in found]
    return found


@functools.cache
def pins() -> dict[str, str]:
    """Distribution -> requirement of the tested stack, from the installed metadata or the checkout."""
    lines = []
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        lines += importlib.metadata.requires('mmpapers') or []
    for name in ('all.txt', 'seg.txt', 'det.txt', 'det3d.txt', 'stack.txt'):
        file = Path(mmpapers.__file__).parents[1] / 'requirements' / name
        lines += file.read_text('utf-8').splitlines() if file.is_file() else []
    found = {}
    for line in lines:
        requirement = line.partition(';')[0].strip()
        name = re.match(r'[\w.-]+', requirement)
        if name and not requirement.startswith('#'):
            found[name.group().lower()] = requirement.replace(' ', '')
    return found


def pip_line(module: str) -> str:
    """The line that installs what provides ``module``, at the tested version.

    OpenMMLab distributions are installed without their dependencies where a fork is present, since pip would write the
    upstream package over the fork.
    """
    names = [name for name in versions.DISTRIBUTIONS.get(module, (module,)) if name.lower() in pins()]
    target = pins()[names[0].lower()] if names else versions.DISTRIBUTIONS.get(module, (module,))[0]
    forked = any(name.startswith('onedl-') for other in OPENMMLAB for name in versions.owners(other))
    alone = '--no-deps ' if module in OPENMMLAB and forked else ''
    quoted = f"'{target}'" if re.search(r'[<>!~]', target) else target
    return f'{os.path.basename(sys.executable)} -m pip install {alone}{quoted}'


def examine_packages() -> tuple[list[Package], dict]:
    """Look at every package of the stack.

    Returns:
        The packages, and facts about devices and mmcv.
    """
    wanted = {**REQUIRED, **TOOLBOXES, **OPTIONAL}
    present = [name for name in wanted if _is_there(name)]
    names = [name for name in present if name not in TOOLBOXES]
    if set(REQUIRED) <= set(present):
        names += ['mmpapers.compat', *(name for name in TOOLBOXES if name in present),
                  *(part for name, part in PARTS.items() if name in present)]
    results = run_probe(names)
    packages, facts = [], {}
    for name, needed_for in wanted.items():
        owners = versions.owners(name)
        package = Package(name, needed_for, 'ok', next(iter(owners.values()), ''), owners)
        error = results.get(name, {}).get('error', '')
        part = PARTS.get(name)
        if not error and part:
            error = results.get(part, {}).get('error', '')
            error = error and f'{part}: {error}'
        if name not in present:
            package.state, package.fix = 'missing', pip_line(name)
        elif error:
            package.state, package.detail, package.fix = 'broken', error, _repair(name, error)
        facts.update(results.get(name, {}).get('facts', {}))
        packages.append(package)
    facts['compat'] = results.get('mmpapers.compat', {}).get('error', '')
    return packages, facts


def _is_there(module: str) -> bool:
    """Whether the import system finds a top-level module."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _repair(module: str, error: str) -> str:
    """Line for a package that is there and does not import."""
    absent = re.search(r"No module named '([\w]+)", error)
    if absent and absent.group(1) != module:
        return pip_line(absent.group(1))
    if module == 'torchvision':
        return (f'{os.path.basename(sys.executable)} -m pip uninstall torchvision  (nothing here needs it), or install '
                'the build that belongs to your torch')
    return pip_line(module).replace('install ', 'install --force-reinstall --no-deps ').replace(
        '--no-deps --no-deps', '--no-deps')


def find_problems(packages: Sequence[Package], facts: dict) -> list[Problem]:
    """Everything that should be mended, the worst first."""
    problems = []
    python = os.path.basename(sys.executable)
    for package in packages:
        required, toolbox = package.name in REQUIRED, package.name in TOOLBOXES
        if package.state == 'missing' and (required or toolbox):
            problems.append(Problem('error' if required else 'warning',
                                    f'{package.name} is not installed; needed for {package.needed_for}', package.fix))
        elif package.state == 'broken':
            problems.append(Problem('error' if required else 'warning',
                                    f'{package.name} {package.version} is installed but does not import: '
                                    f'{package.detail}', package.fix))
        if package.name in OPENMMLAB and len(package.distributions) > 1:
            names = list(package.distributions)
            keep = next((n for n in names if n.startswith('onedl-')), names[0])
            listed = ', '.join(f'{name} {version}' for name, version in package.distributions.items())
            message = (f'{package.name} belongs to {len(names)} distributions ({listed}): they write the same files, '
                       'and what is on the disk is a mixture')
            problems.append(Problem('error', message, f'{python} -m pip uninstall -y {" ".join(names)} && {python} -m '
                                    f'pip install --no-deps {keep}=={package.distributions[keep]}'))
    state = {package.name: package.state for package in packages}
    if facts['compat'] and all(state[name] == 'ok' for name in REQUIRED):
        problems.append(Problem('error', f'mmpapers.compat.setup() fails: {facts["compat"]}',
                                'report this with the output of `python -m mmpapers.doctor --json`'))
    if 'gpus' in facts and not facts['gpus'] and shutil.which('nvidia-smi'):
        problems.append(Problem('warning', 'this machine has an NVIDIA driver, but torch finds no GPU '
                                + (f'(built for CUDA {facts["cuda"]})' if facts['cuda'] else '(a CPU build)'),
                                'install the CUDA build of torch: https://pytorch.org/get-started/locally'))
    return sorted(problems, key=lambda problem: problem.level)


def needs(module: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """Top-level packages that importing a module of ours needs, found by reading the sources.

    Args:
        module: Dotted name inside mmpapers.
        seen: Modules on the way here (import cycles).
    """
    file = _source(module)
    if file is None or module in seen:
        return set()
    found = set()
    for node in _imports_at_import(ast.parse(file.read_text('utf-8')).body):
        names = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                 else [_absolute(node, module, file)])
        for name in names:
            if name.partition('.')[0] == 'mmpapers':
                targets = [name] if isinstance(node, ast.Import) else [name, *(f'{name}.{a.name}' for a in node.names)]
                for target in targets:
                    found |= needs(target, seen | {module})
            else:
                found.add(name.partition('.')[0])
    return found - set(sys.stdlib_module_names)


def _source(module: str) -> Path | None:
    """File of one of our modules; nothing is imported except the two empty packages on the way."""
    import mmpapers.projects
    parts = module.split('.')
    roots = mmpapers.projects.__path__ if parts[1:2] == ['projects'] else mmpapers.__path__
    rest = parts[2:] if parts[1:2] == ['projects'] else parts[1:]
    for root in roots:
        path = Path(root, *rest)
        for file in (path.with_suffix('.py'), path / '__init__.py') if rest else (path / '__init__.py',):
            if file.is_file():
                return file
    return None


def _imports_at_import(body: Sequence[ast.stmt]) -> list[ast.Import | ast.ImportFrom]:
    """Import statements that run when the module does and are not guarded by ``try`` or ``if``."""
    return [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]


def _absolute(node: ast.ImportFrom, module: str, file: Path) -> str:
    """Module named in a ``from`` import, with leading dots resolved."""
    if not node.level:
        return node.module or ''
    package = module.split('.') if file.name == '__init__.py' else module.split('.')[:-1]
    base = package[:len(package) - node.level + 1]
    return '.'.join([*base, *((node.module or '').split('.') if node.module else [])])


def list_components(packages: Sequence[Package]) -> tuple[list[Component], str]:
    """All registered classes and what each of them lacks.

    Returns:
        The components, and a sentence if they cannot be listed.
    """
    try:
        from mmpapers.registry import scan
    except Exception as error:
        return [], f'the components cannot be listed without a working mmengine ({type(error).__name__}: {error})'
    known = {package.name: package.state == 'ok' for package in packages}

    @functools.cache
    def missing(module: str) -> list[str]:
        return sorted(name for name in needs(module) if not known.get(name, name in known or _is_there(name)))
    return [Component(registry, name, module, missing(module)) for registry, name, module in sorted(scan())], ''


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; return 0 if the stack is usable, 1 if not."""
    from mmpapers.cli import doctor_report
    parser = argparse.ArgumentParser(prog='python -m mmpapers.doctor', description=__doc__.splitlines()[0])
    parser.add_argument('--components', action='store_true', help='list every registered component')
    parser.add_argument('--grep', metavar='PATTERN', help='with --components: only names, registries or modules that '
                        'match this regular expression')
    parser.add_argument('--json', action='store_true', help='print everything as JSON (attach it to a bug report)')
    args = parser.parse_args(argv)
    packages, facts = examine_packages()
    problems = find_problems(packages, facts)
    components, note = list_components(packages)
    if args.grep:
        try:
            pattern = re.compile(args.grep, re.IGNORECASE)
        except re.error as error:
            parser.error(f'--grep {args.grep!r} is not a regular expression: {error}')
        components = [c for c in components if any(map(pattern.search, (c.name, c.registry, c.module)))]
    usable = not any(problem.level == 'error' for problem in problems)
    report = {'mmpapers': mmpapers.__version__, 'usable': usable, 'python': platform.python_version(),
              'executable': sys.executable, 'platform': platform.platform(), 'cpus': os.cpu_count(), 'facts': facts,
              'packages': [dataclasses.asdict(p) for p in packages],
              'problems': [dataclasses.asdict(p) for p in problems],
              'components': [dataclasses.asdict(c) for c in components], 'note': note}
    if args.json:
        print(json.dumps(report, indent=2))
    elif args.components or args.grep:
        print(doctor_report.components(components, note))
    else:
        print(doctor_report.full(report, packages, problems, components))
    return 0 if usable else 1
