"""House rules that need no import: names, sections, paths, independence, duplicates."""

import ast
import collections
import re
import shutil
from pathlib import Path

import pytest
import yaml

import mmpapers.projects
from mmpapers import registry

pytestmark = pytest.mark.core
REPOSITORY = Path(mmpapers.__file__).resolve().parents[1]
SECTIONS = ['Idea', 'Commands', 'Paper, released code, ours', 'Results', 'In your own config', 'Citation']
TAGS = ('`paper`', '`official weights re-evaluated`', '`trained here`', '`not verified`')
SOURCES = [p for root in ('mmpapers', 'projects', 'tools', 'tests') for p in sorted((REPOSITORY / root).rglob('*.py'))]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text('utf-8'), str(path))


def test_readme_sections(project: Path) -> None:
    text = (project / 'README.md').read_text('utf-8')
    assert re.match(r'# \S', text)
    assert re.findall(r'^## (.+)$', text, re.M) == SECTIONS


def test_every_result_row_is_tagged(project: Path) -> None:
    results = (project / 'README.md').read_text('utf-8').split('\n## Results\n')[1].split('\n## ')[0]
    tables = re.findall(r'^\|.*(?:\n\|.*)+', results, re.M)
    assert tables, f'{project.name}: no results table'
    for table in tables:
        for row in table.splitlines()[2:]:
            assert any(tag in row for tag in TAGS), f'{project.name}: untagged row {row}'


def test_paths_in_readmes_exist(project: Path) -> None:
    _check_paths(project / 'README.md')


@pytest.mark.parametrize('page', [REPOSITORY / 'README.md', *sorted(REPOSITORY.glob('docs/*.md'))],
                         ids=lambda p: p.name)
def test_paths_in_docs_exist(page: Path) -> None:
    _check_paths(page)


def _check_paths(page: Path) -> None:
    """Every path of ours that a page names, in commands or links, exists."""
    text = page.read_text('utf-8')
    roots = 'tools|projects|configs|docs|mmpapers|tests|requirements'
    named = set(re.findall(rf'(?<![\w./<{{])((?:{roots})/[\w./-]*\w)', text))
    links = {link for link in re.findall(r'\]\(([^)#\s]+)', text) if '://' not in link}
    missing = [p for p in named if not (REPOSITORY / p).exists() and 'my_' not in p]
    missing += [p for p in links if not (page.parent / p).exists()]
    assert not missing, f'{page.relative_to(REPOSITORY)} names what does not exist: {missing}'


def test_metafile(project: Path) -> None:
    meta = yaml.safe_load((project / 'metafile.yml').read_text('utf-8'))
    assert {'Name', 'Paper', 'Code', 'License', 'Tasks', 'Components', 'Configs'} <= set(meta)
    assert {'Title', 'URL', 'Venue', 'Year'} <= set(meta['Paper'])
    registered = {name for _, name, module in registry.scan() if f'.projects.{project.name}.' in module}
    assert set(meta['Components']) == registered
    assert {Path(c['In']).name for c in meta['Configs']} == {c.name for c in project.glob('configs/*.py')}


def test_has_a_tiny_config(project: Path) -> None:
    assert list(project.glob('configs/*_tiny-cpu.py'))


def test_no_project_imports_another(project: Path) -> None:
    for path in project.rglob('*.py'):
        for node in ast.walk(_tree(path)):
            names = [node.module or ''] if isinstance(node, ast.ImportFrom) else [
                alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith('projects'), f'{path}: import it as mmpapers.projects'
                if name.startswith('mmpapers.projects.'):
                    assert name.split('.')[2] == project.name, f'{path} imports {name}'


def test_component_is_named_in_a_test(component: tuple[str, str, str]) -> None:
    _, name, module = component
    project = module.split('.')[2]
    tests = ''.join(p.read_text('utf-8') for p in (REPOSITORY / 'tests/test_projects' / project).glob('test_*.py'))
    assert re.search(rf'\b{name}\b', tests), f'no test of {project} names {name}'


def test_class_names_are_unique() -> None:
    modules = collections.defaultdict(set)
    for symbol, name, module in registry.scan():
        modules[symbol, name].add(module)
    assert not {key: found for key, found in modules.items() if len(found) > 1}


def test_index_sees_every_registration() -> None:
    """The functional or aliased forms of ``register_module`` would be invisible to the index."""
    indexed = collections.Counter(module for _, _, module in registry.scan())
    for package in (mmpapers, mmpapers.projects):
        for root in map(Path, package.__path__):
            for path in root.rglob('*.py'):
                parts = path.relative_to(root).with_suffix('').parts
                if 'configs' in parts or (package is mmpapers and parts[0] == 'projects'):
                    continue
                calls = sum(isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                            and node.func.attr == 'register_module' for node in ast.walk(_tree(path)))
                module = '.'.join([package.__name__, *parts]).removesuffix('.__init__')
                assert calls == indexed[module], f'{path}: {calls} registrations, {indexed[module]} in the index'


def test_a_project_can_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    shutil.copytree(REPOSITORY / 'projects', tmp_path / 'projects',
                    ignore=shutil.ignore_patterns('*.jpg', '__pycache__'))
    shutil.rmtree(tmp_path / 'projects' / project.name)
    monkeypatch.setattr(mmpapers.projects, '__path__', [str(tmp_path / 'projects')])
    left = {module.split('.')[2] for *_, module in registry.scan() if module.startswith('mmpapers.projects.')}
    assert project.name not in left
    assert left == {p.parent.name for p in tmp_path.glob('projects/*/__init__.py')}


def test_no_near_duplicate_functions() -> None:
    """Bodies alike but for names, in different projects, belong in the core."""
    bodies = collections.defaultdict(set)
    for path in (REPOSITORY / 'projects').rglob('*.py'):
        if 'configs' in path.parts:
            continue
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 6:
                shape = [type(n).__name__ + str(getattr(n, 'attr', '')) for n in ast.walk(node)
                         if not isinstance(n, (ast.Constant, ast.Load, ast.Store))]
                bodies['.'.join(shape)].add((path.relative_to(REPOSITORY).parts[1], f'{path.name}:{node.lineno}'))
    twins = [found for found in bodies.values() if len({project for project, _ in found}) > 1]
    assert not twins


def _asserts(function: ast.FunctionDef, helpers: set[str]) -> bool:
    """Whether a function asserts something itself, or through a helper of its file."""
    called = {ast.unparse(n.func).rpartition('.')[2] for n in ast.walk(function) if isinstance(n, ast.Call)}
    known = {'raises', 'warns', 'assert_close', 'assert_allclose', 'assert_array_equal', 'gradcheck', *helpers}
    return any(isinstance(n, ast.Assert) for n in ast.walk(function)) or bool(called & known)


def test_no_test_asserts_nothing() -> None:
    for path in (REPOSITORY / 'tests').rglob('test_*.py'):
        tree = _tree(path)
        asserting = {f.name for f in tree.body if isinstance(f, ast.FunctionDef) and _asserts(f, set())}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith('test_'):
                assert _asserts(node, asserting), f'{path.name}: {node.name}'
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                called = ast.unparse(node.value.func)
                bare = called.endswith(('.allclose', '.equal', '.isclose'))
                assert not bare, f'{path.name}:{node.lineno}: bare {called}'


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_source_house_rules(path: Path) -> None:
    text = path.read_text('utf-8')
    is_test = 'tests' in path.relative_to(REPOSITORY).parts
    assert is_test or text.count('\n') <= 450, f'{path}: split it'
    assert is_test or '.cuda(' not in text.replace("'.cuda(", ''), f'{path}: take the device from the input'
    tree = _tree(path)
    assert ast.get_docstring(tree) or not text.strip(), f'{path}: no module docstring'
    if is_test or 'configs' in path.parts:
        return
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith('_'):
            assert ast.get_docstring(node), f'{path}:{node.lineno}: {node.name} has no docstring'
