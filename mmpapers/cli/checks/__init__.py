"""The checks that ``tools/check.py`` and ``tools/train.py`` run on a config, one concern a module."""
