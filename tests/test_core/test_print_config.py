"""``print_config``: the resolved config and who set a value."""

from pathlib import Path

import pytest

from mmpapers.cli.print_config import explain, main, short

pytestmark = pytest.mark.core


@pytest.fixture
def child(tmp_path: Path) -> Path:
    """A chain of three files."""
    (tmp_path / 'a.py').write_text('lr = 0.1\nmodel = dict(\n    depth=18,\n    head=dict(n=80))\n')
    (tmp_path / 'b.py').write_text('hooks = [dict(interval=5)]\noptim = dict(name="SGD")\n')
    (tmp_path / 'c.py').write_text("_base_ = ['a.py', 'b.py']\nwide = 34\nmodel = dict(depth=wide)\n"
                                   '_base_.model.head.n = 3\n')
    return tmp_path / 'c.py'


def places(path: Path, *key, options: dict | None = None) -> list[tuple[str, str]]:
    """File and line, and value, of each step."""
    return [(step.place.rpartition('/')[2], short(step.value)) for step in explain(str(path), key, options)]


def test_order_of_the_chain(child: Path) -> None:
    assert places(child, 'model', 'depth') == [('a.py:3', '18'), ('c.py:2', '34'), ('c.py:3', '34')]
    assert places(child, 'model', 'head', 'n') == [('a.py:4', '80'), ('c.py:4', '3')]
    assert places(child, 'hooks', 0, 'interval') == [('b.py:1', '5')]


def test_command_line_options_come_last(child: Path) -> None:
    assert places(child, 'model', 'depth', options={'model.depth': 50, 'lr': 1})[-1] == ('--cfg-options', '50')


def test_a_dict_around_the_key(child: Path) -> None:
    assert [place for place, _ in places(child, 'model')] == ['a.py:2', 'c.py:3', 'c.py:4']


def test_delete_is_shown(child: Path) -> None:
    child.write_text("_base_ = ['a.py', 'b.py']\nmodel = dict(_delete_=True, depth=1)\n")
    assert places(child, 'model', 'head') == [('a.py:4', "{'n': 80}"), ('c.py:2', '(not set)')]


def test_output(child: Path, capsys) -> None:
    assert main([str(child)]) == 0
    assert 'depth=34' in capsys.readouterr().out
    assert main([str(child), '--explain', 'model.depth', '--cfg-options', 'model.depth=50']) == 0
    out = capsys.readouterr().out
    assert out.startswith('model.depth = 50\n')
    assert out.index('a.py:3') < out.index('c.py:3') < out.index('--cfg-options')


def test_unknown_key(child: Path, capsys) -> None:
    assert main([str(child), '--explain', 'model.dept']) == 2
    assert 'model.depth' in capsys.readouterr().err


def test_long_values_are_shortened() -> None:
    assert short(list(range(100)), width=20) == '[0, 1, 2, 3, 4,  ...'
