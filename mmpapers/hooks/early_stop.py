"""Early stopping that says why, survives a resume and refuses a metric that does not exist."""

import difflib
import operator
from typing import Any

from mmengine.hooks import EarlyStoppingHook
from mmengine.runner import Runner

from mmpapers.registry import HOOKS


class UnknownMetricError(ValueError):
    """A metric that no validation yields."""


@HOOKS.register_module()
class EarlyStopHook(EarlyStoppingHook):
    """Stop when a metric has not improved for ``patience`` validations.

    mmengine's :class:`EarlyStoppingHook` decides; this one changes four things. ``min_delta`` is 0 by default (with
    mmengine's 0.1 an AP between 0 and 1 practically never improves); a tie is no improvement (there it is, so a metric
    stuck at 0 trains for ever); a metric that no validation yields is an error and not a warning; the count is stored
    in checkpoints. ``tools/train.py`` keeps the best checkpoint by the same metric if the config does not set
    ``default_hooks.checkpoint.save_best``.

    Args:
        monitor: Metric, e.g. 'coco/bbox_mAP', 'mIoU', or 'loss' (the validation loss of :class:`ValLossHook`).
        patience: Validations without improvement.
        min_delta: What counts as an improvement, in the metric's unit.
        **kwargs: Further arguments of :class:`mmengine.hooks.EarlyStoppingHook` (``rule``, ``stopping_threshold``).
    """

    rule_map = {'greater': operator.ge, 'less': operator.le}

    def __init__(self, monitor: str, patience: int = 5, min_delta: float = 0., **kwargs: Any) -> None:
        super().__init__(monitor.removeprefix('val/'), patience=patience, min_delta=min_delta, **kwargs)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Decide, and say so when training ends here.

        Raises:
            UnknownMetricError: If the metric is not among those of the validation.
        """
        if self.monitor not in (metrics or {}):
            close = difflib.get_close_matches(self.monitor, metrics or {}, n=1)
            raise UnknownMetricError(
                f'EarlyStopHook.monitor={self.monitor!r} is not a metric of the validation; '
                + (f'did you mean {close[0]!r}? ' if close else '')
                + f'It yields {", ".join(metrics or {}) or "nothing"}.')
        super().after_val_epoch(runner, metrics)
        if runner.train_loop.stop_training:
            runner.logger.warning(f'early stop with {self.monitor} = {metrics[self.monitor]:.4g}: {self.reason}')

    def _check_stop_condition(self, current_score: float) -> tuple[bool, str]:
        """Remember the reason, which the parent logs where a person at the console does not see it."""
        stop, self.reason = super()._check_stop_condition(current_score)
        return stop, self.reason

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store best score and count."""
        checkpoint['early_stop'] = dict(best_score=float(self.best_score), wait_count=self.wait_count)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore best score and count when a run is resumed."""
        if runner._resume and 'early_stop' in checkpoint:
            self.best_score = checkpoint['early_stop']['best_score']
            self.wait_count = checkpoint['early_stop']['wait_count']
