"""The error of this package."""


class DistillError(ValueError):
    """A distillation that cannot start; the message names the config key and the fix."""

    exit_code = 2
