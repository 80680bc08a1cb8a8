"""``python -m mmpapers COMMAND``."""

from mmpapers.cli.main import main

raise SystemExit(main())
