"""The short form: ``distill = dict(type=…, teacher=…, checkpoint=…)`` beside an untouched student config."""

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS

from mmpapers.distill.errors import DistillError
from mmpapers.distill.sources import Source, model_config


def expand(cfg: Config) -> bool:
    """Turn the short form into the long one, ``model = dict(type=…, student=…, teacher=…)``.

    Args:
        cfg: Changed in place: ``model`` wraps the student, ``distill`` is gone. The teacher's config file, looked for
            in the current folder and beside the config, becomes the dict that it holds, so that the expanded config
            needs no other file than the teacher's weights. ``distill.guard`` becomes a hook, and hooks that the method
            needs (``Distiller.hooks``) are added.

    Returns:
        Whether there was anything to expand.

    Raises:
        DistillError: If ``distill`` is no method, or its teacher does not exist.
    """
    overlay = cfg.get('distill')
    if overlay is None:
        return False
    if not isinstance(overlay, dict) or 'type' not in overlay:
        raise DistillError("distill must be dict(type='mmpapers.<method>', teacher='<config>', checkpoint='<weights>')")
    overlay = dict(overlay)
    folders = ('.', Path(cfg.filename).parent) if cfg.filename else ('.',)
    if overlay.get('teacher') is not None:
        overlay['teacher'] = model_config(overlay['teacher'], 'distill.teacher', folders)
    hooks = list(cfg.get('custom_hooks') or [])
    guard = overlay.pop('guard', None)
    if guard is not None:
        hooks.append(dict(type='mmpapers.TeacherGuardHook', **guard))
    present = {hook.get('type') for hook in hooks}
    hooks += [dict(type=hook) for hook in getattr(MODELS.get(overlay['type']), 'hooks', ()) if hook not in present]
    if hooks:
        cfg.custom_hooks = hooks
    cfg.model = dict(type=overlay.pop('type'), student=_student(cfg, 'model'), **overlay)
    del cfg._cfg_dict['distill']
    return True


def plain(cfg: Config) -> bool:
    """Turn a distilled config, short or long, into the plain student's: what is tested and exported.

    Args:
        cfg: Changed in place.

    Returns:
        Whether there was anything to do.
    """
    found = cfg._cfg_dict.pop('distill', None) is not None
    model = cfg.get('model')
    if isinstance(model, dict) and 'student' in model and str(model.get('type')).startswith('mmpapers.'):
        cfg.model = _student(model['student'], 'model.student')
        found = True
    return found


def _student(source: Source, key: str) -> dict:
    """A student's model; its scope is that of the config it stands in."""
    student = model_config(source, key)
    student.pop('_scope_', None)
    return student
