"""``python -m mmpapers.doctor``: what is installed, what is missing, what that costs, and the line that mends it."""

from mmpapers.cli.doctor import main

if __name__ == '__main__':
    raise SystemExit(main())
