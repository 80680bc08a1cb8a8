"""Make .venv and install the tested stack into it. Needs Python 3.10-3.12 and pip, no compiler.

``make quickstart`` and ``make test`` call this. It shows what it does, reuses what is there, and can be run again after
a failure: it goes on where it stopped. Only the standard library is used.

    python3 tools/install.py             the stack and mmpapers itself
    python3 tools/install.py --tests     and what the tests need
    python3 tools/install.py --compiled  a second environment, .venv-compiled, with mmcv built from source (needs g++)

Environment: PYTHON (interpreter), TORCH (requirement, default ``torch==2.13.0``), and all of pip's own PIP_* variables.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SUPPORTED = ((3, 10), (3, 12))
MMCV = 'mmcv==2.1.0'
HINTS = (
    (r'No space left on device', 'The disk is full: free about 4 GB (10 GB if torch comes with CUDA).'),
    (r'Temporary failure in name resolution|NewConnectionError|Connection (?:refused|reset)|ConnectTimeout|'
     r'Network is unreachable|Max retries exceeded',
     'The package index was not reached: check the network, or set PIP_INDEX_URL / HTTPS_PROXY.'),
    (r'CERTIFICATE_VERIFY_FAILED',
     'The certificate of the package index is not trusted: set PIP_CERT to your CA bundle.'),
    (r'ResolutionImpossible|conflicting dependencies',
     'Something else pins other versions: unset PIP_CONSTRAINT, or delete the environment and try again.'),
    (r'No matching distribution found', 'Your index has no file of that version for this Python and platform: '
     'try another interpreter with PYTHON=python3.11, or another torch with TORCH=torch==X.Y.Z.'),
    (r'error: command .*(?:gcc|g\+\+|cc).* failed|No such file or directory: \'(?:gcc|g\+\+)\'|'
     r'Failed building wheel',
     'A package was about to be compiled. None of the stack needs that: upgrade pip, or use a Python from 3.10 to '
     '3.12. (`make compiled` does need g++ and the Python headers.)'))
STEP = re.compile(r'\s*(Collecting|Downloading|Installing collected packages|Building wheel for) ?(\S*)')


class Failure(Exception):
    """A step that failed, with the sentence for the person who waits."""


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def find_python() -> str:
    """Return the first interpreter of a supported version.

    Raises:
        Failure: If there is none.
    """
    asked = os.environ.get('PYTHON')
    seen = []
    for name in [asked] if asked else ['python3', 'python3.11', 'python3.12', 'python3.10', 'python', sys.executable]:
        path = shutil.which(name)
        if path is None:
            continue
        probe = subprocess.run([path, '-c', 'import sys; print(*sys.version_info[:2])'], capture_output=True, text=True)
        if probe.returncode:
            continue
        version = tuple(map(int, probe.stdout.split()))
        if SUPPORTED[0] <= version <= SUPPORTED[1]:
            return path
        seen.append(f'{name} is {version[0]}.{version[1]}')
    raise Failure(f'No Python from 3.10 to 3.12 found ({", ".join(seen) or "nothing answered"}). '
                  'Install one and name it: make quickstart PYTHON=/path/to/python3.11')


def make_venv(folder: Path) -> Path:
    """Create the environment if it is absent or broken; return its interpreter."""
    python = folder / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    if python.exists() and subprocess.run([python, '-m', 'pip', '--version'], capture_output=True).returncode == 0:
        return python
    made = subprocess.run([find_python(), '-m', 'venv', '--clear', str(folder)], capture_output=True, text=True)
    if made.returncode:
        raise Failure(f'{folder.name} could not be made: {(made.stderr or made.stdout).strip()[-400:]}\n'
                      'On Debian and Ubuntu: apt install python3-venv')
    return python


def pip(python: Path, title: str, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run ``pip install`` with one line of progress; keep everything in install.log.

    Raises:
        Failure: With the end of pip's output and what to do.
    """
    log = python.parents[1] / 'install.log'
    command = [str(python), '-m', 'pip', 'install', '--disable-pip-version-check', '--progress-bar', 'off', *arguments]
    start, collected, lines = time.time(), 0, []
    terminal = sys.stdout.isatty()
    with log.open('a', encoding='utf-8') as file:
        file.write(f'$ {" ".join(command)}\n')
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   env={**os.environ, **(env or {})}, errors='replace')
        for line in process.stdout:
            file.write(line)
            lines.append(line.rstrip())
            match = STEP.match(line)
            if not match:
                continue
            collected += match[1] == 'Collecting'
            size = re.search(r'\(([\d.]+ [kMG]B)\)', line)
            what = f'{match[1].lower()} {Path(match[2]).name[:48]}{" " + size[0] if size else ""}'
            if match[1].startswith('Installing'):
                what = f'unpacking {line.count(",") + 1} packages'
            if terminal:
                seconds = time.time() - start
                print(f'\r  {title}: {collected} packages, {seconds:3.0f} s, {what:<70.70}', end='', flush=True)
            elif size and size[1].endswith(('MB', 'GB')) and float(size[1].split()[0]) > 20 or 'unpacking' in what:
                say(f'  {title}: {what}')
        code = process.wait()
    if terminal:
        print('\r' + ' ' * 110 + '\r', end='')
    if code:
        text = '\n'.join(lines)
        hint = next((h for pattern, h in HINTS if re.search(pattern, text)), 'The end of the output above says why.')
        shown = '\n'.join('    ' + line for line in lines[-12:])
        raise Failure(f'{title} failed.\n{shown}\n  {hint}\n  Whole output: {log}')
    say(f'  {title}: done in {time.time() - start:.0f} s')


def stamp(python: Path, names: Sequence[str], torch: str) -> str:
    """Identify what an installation consists of."""
    digest = hashlib.sha256(f'{torch} {python.resolve()} {REPOSITORY}'.encode())
    for name in (*(f'requirements/{n}.txt' for n in names), 'setup.py'):
        digest.update((REPOSITORY / name).read_bytes())
    return digest.hexdigest()


def install(tests: bool) -> None:
    """Install the stack, mmpapers and, if asked for, what the tests need."""
    start = time.time()
    python = make_venv(REPOSITORY / '.venv')
    torch = os.environ.get('TORCH') or 'torch==2.13.0'
    groups = ['stack', 'tests'] if tests else ['stack']
    marks = {group: python.parents[1] / f'.{group}-installed' for group in groups}
    wanted = {group: stamp(python, [group], torch) for group in groups}
    todo = [g for g in groups if not marks[g].is_file() or marks[g].read_text('utf-8') != wanted[g]]
    if not todo:
        say(f'{python.parents[1].name} is up to date')
        return
    say(f'Installing into {python.parents[1].name} (what is there is reused; Ctrl-C and a second call go on from here)')
    if 'stack' in todo:
        pip(python, 'torch', torch)
        pip(python, 'OpenMMLab stack', '-r', str(REPOSITORY / 'requirements/stack.txt'), torch)
        pip(python, 'mmpapers', '--no-deps', '--no-build-isolation', '-e', str(REPOSITORY))
    if 'tests' in todo:
        pip(python, 'test tools', '-r', str(REPOSITORY / 'requirements/tests.txt'))
    check = subprocess.run([str(python), '-m', 'mmpapers.doctor'], capture_output=True, text=True, cwd=REPOSITORY)
    if check.returncode:
        raise Failure(f'The packages are installed, but the stack is not usable:\n{check.stdout}{check.stderr}')
    for group in todo:
        marks[group].write_text(wanted[group], 'utf-8')
    say(f'Ready after {time.time() - start:.0f} s. What is installed: {python} -m mmpapers.doctor')


def install_compiled() -> None:
    """Build mmcv with its C++ (and, with nvcc, CUDA) kernels beside the default environment."""
    compiler = shutil.which('g++') or shutil.which('clang++') or shutil.which('cl')
    if compiler is None:
        raise Failure('Compiling mmcv needs a C++ compiler: apt install g++ (the default stack needs none).')
    python = make_venv(REPOSITORY / '.venv-compiled')
    torch = os.environ.get('TORCH') or 'torch==2.13.0'
    say(f'Building {MMCV} from source: about 13 minutes on 2 cores')
    pip(python, 'torch', torch, 'numpy<2')
    # torch brings a newer setuptools, without the pkg_resources that mmcv's setup.py imports: so this comes after it.
    pip(python, 'build tools', 'setuptools<80', 'wheel', 'ninja', 'psutil')
    cuda = '1' if shutil.which('nvcc') and os.environ.get('FORCE_CUDA', '1') == '1' and _has_cuda(python) else '0'
    pip(python, 'mmcv (be patient)', MMCV, '--no-build-isolation', '--no-binary', 'mmcv',
        env={'MMCV_WITH_OPS': '1', 'FORCE_CUDA': cuda})
    stack = [line for line in (REPOSITORY / 'requirements/stack.txt').read_text('utf-8').splitlines()
             if line and not line.startswith(('#', 'mmcv-lite'))]
    pip(python, 'OpenMMLab stack', *stack, 'setuptools<80')
    pip(python, 'mmpapers', '--no-deps', '--no-build-isolation', '-e', str(REPOSITORY))
    say(f'Ready: {python} -m mmpapers.doctor')


def _has_cuda(python: Path) -> bool:
    """Whether the installed torch was built with CUDA."""
    probe = subprocess.run([str(python), '-c', 'import torch; raise SystemExit(torch.version.cuda is None)'])
    return probe.returncode == 0


def main() -> int:
    """Install; on failure say what failed and what to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tests', action='store_true', help='install what the tests need too')
    parser.add_argument('--compiled', action='store_true', help='build a compiled mmcv in .venv-compiled')
    args = parser.parse_args()
    try:
        install_compiled() if args.compiled else install(args.tests)
    except Failure as failure:
        say(f'\nNot installed: {failure}\n  Then run the same command again; it goes on where it stopped.')
        return 1
    except KeyboardInterrupt:
        say('\nStopped. Run the same command again; it goes on where it stopped.')
        return 130
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
