"""``mmpapers COMMAND ...``: the tools of this package from any folder."""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    'train': 'train a config (mmdet, mmseg, mmdet3d or ours)',
    'test': 'evaluate a checkpoint, write pictures and results',
    'check': 'find mistakes in a config and its data before a run',
    'print_config': 'print a resolved config; --explain KEY says which file set a value',
    'inspect_model': 'module paths and output shapes of a model',
    'apply_distill': 'write a distillation overlay for a config',
    'compare_methods': 'train and test several configs with the same seeds; a table and a plot',
    'doctor': 'what is installed, what is unavailable and how to mend it',
    'get_flops': 'operations and parameters of a model',
    'benchmark': 'latency, images/s and peak memory',
    'browse_dataset': 'draw training samples as the model sees them',
    'plot_log': 'curves of one or several runs',
    'quickstart': 'the main job: Toytown, training, testing, pictures',
}


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to ``mmpapers.cli.<command>``.

    Args:
        argv: Command and its arguments; those of the process by default.

    Returns:
        The exit code of the command; 2 if there is no such command.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        sys.argv = [f'mmpapers {arguments[0]}', *arguments[1:]]
        return importlib.import_module(f'mmpapers.cli.{arguments[0]}').main(arguments[1:])
    width = max(map(len, COMMANDS))
    print('usage: mmpapers COMMAND ...\n')
    print('\n'.join(f'  {name:{width}}  {text}' for name, text in COMMANDS.items()))
    return 0 if not arguments or arguments[0] in ('-h', '--help') else 2


if __name__ == '__main__':
    raise SystemExit(main())
