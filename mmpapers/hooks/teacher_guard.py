"""Measure the teacher before the first step, and do not train on one that knows nothing."""

from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmpapers.distill.errors import DistillError
from mmpapers.registry import HOOKS

METRICS = 'teacher_metrics'


@HOOKS.register_module()
class TeacherGuardHook(Hook):
    """Evaluate the teacher on validation batches before step 0 and stop below a bound.

    In the short form: ``distill = dict(..., guard=dict(metric='coco/bbox_mAP', minimum=0.3, batches=20))``. The metrics
    go into the run's ``manifest.json``.

    Args:
        metric: Name of a metric of ``val_evaluator``, as its table shows it.
        minimum: Lowest value with which training starts.
        batches: Validation batches to look at; None for all. COCO metrics are restricted to their images.
    """

    priority = 'VERY_HIGH'

    def __init__(self, metric: str, minimum: float, batches: int | None = None) -> None:
        self.metric = metric
        self.minimum = minimum
        self.batches = batches

    def before_train(self, runner: Runner) -> None:
        """Measure once, in the main process; a resumed run has been measured.

        Raises:
            DistillError: If there is no teacher, no validation set, no such metric, or the teacher is below the bound.
        """
        if runner.iter > 0 or not is_main_process():
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        teacher = getattr(model, 'teacher', None)
        if teacher is None or runner.val_loop is None:
            raise DistillError('distill.guard needs a teacher and a val_dataloader with val_evaluator; leave guard out')
        metrics = self.measure(runner, teacher.model)
        runner.message_hub.update_info(METRICS, metrics)
        if self.metric not in metrics:
            raise DistillError(f'distill.guard.metric={self.metric!r} is not measured; val_evaluator gives '
                               f'{", ".join(metrics)}')
        value = metrics[self.metric]
        if not value >= self.minimum:
            raise DistillError(f'the teacher reaches {self.metric} {value:g} on {self._amount()}, below '
                               f'distill.guard.minimum {self.minimum:g}: its checkpoint ({teacher.checkpoint}) or its '
                               'config is not the right one')
        runner.logger.info(f'teacher: {self.metric} {value:g} on {self._amount()}')

    def measure(self, runner: Runner, teacher: torch.nn.Module) -> dict[str, float]:
        """Metrics of the teacher on the first batches of the validation set."""
        evaluator, count = runner.val_loop.evaluator, 0
        restore: list[tuple[Any, Any]] = []
        with torch.no_grad():
            for index, batch in enumerate(runner.val_dataloader):
                if index == self.batches:
                    break
                outputs = teacher.val_step(batch)
                count += len(outputs)
                evaluator.process(data_samples=outputs, data_batch=batch)
        for metric in evaluator.metrics:
            if hasattr(metric, 'img_ids') and self.batches is not None:  # CocoMetric: score these images alone
                restore.append((metric, metric.img_ids))
                metric.img_ids = [result[1]['img_id'] for result in metric.results]
        try:
            metrics = evaluator.evaluate(count)
        finally:
            for metric, images in restore:
                metric.img_ids = images
        return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}

    def _amount(self) -> str:
        return 'the validation set' if self.batches is None else f'{self.batches} validation batches'
