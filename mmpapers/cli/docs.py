"""``make docs``: write docs/papers/<paper>.md from the project READMEs and the method table of README.md."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

import mmpapers

TAGS = ('trained here', 'official weights re-evaluated', 'not verified')
BEGIN, END = '<!-- methods: begin -->', '<!-- methods: end -->'


def method_table(root: Path) -> str:
    """Return the table method x status, one row a project.

    The status is what the project's results rest on: the strongest tag among the rows of its README.
    """
    rows = ['| method | task | paper | components | results |', '|---|---|---|---|---|']
    for folder in sorted(p.parent for p in root.glob('projects/*/metafile.yml')):
        meta = yaml.safe_load((folder / 'metafile.yml').read_text('utf-8'))
        results = (folder / 'README.md').read_text('utf-8').split('\n## Results\n')[1].split('\n## ')[0]
        tags = [tag for tag in TAGS if f'`{tag}`' in results]
        paper = meta['Paper']
        rows.append(f'| [{meta["Name"]}](projects/{folder.name}/README.md) | {", ".join(meta["Tasks"])} | '
                    f'[{paper["Venue"]} {paper["Year"]}]({paper["URL"]}) | '
                    f'{", ".join(f"`mmpapers.{c}`" for c in meta["Components"])} | {", ".join(tags)} |')
    return '\n'.join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Regenerate the pages of the checkout."""
    argparse.ArgumentParser(prog='docs', description=__doc__).parse_args(argv)
    root = Path(mmpapers.__file__).resolve().parents[1]
    pages = root / 'docs/papers'
    pages.mkdir(exist_ok=True)
    for readme in sorted(root.glob('projects/*/README.md')):
        links = rf'](../../projects/{readme.parent.name}/\1)'
        text = re.sub(r'\]\((?!https?://|#)([^)]+)\)', links, readme.read_text('utf-8'))
        (pages / f'{readme.parent.name}.md').write_text(text, 'utf-8')
    page = root / 'README.md'
    before, _, rest = page.read_text('utf-8').partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f'{before}{BEGIN}\n{method_table(root)}\n{END}{after}', 'utf-8')
    print(f'wrote {len(list(pages.glob("*.md")))} pages in docs/papers and the table of README.md')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
