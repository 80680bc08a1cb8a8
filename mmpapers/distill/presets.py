"""Where each family of models keeps its features, class scores and box outputs, so that users write no path."""

from torch import nn

# What a dense head calls the convolutions that give scores and boxes.
_SCORES = ('retina_cls', 'gfl_cls', 'atss_cls', 'conv_cls', 'vfnet_cls', 'cls_logits', 'rtm_cls')
_BOXES = ('retina_reg', 'gfl_reg', 'atss_reg', 'conv_reg', 'vfnet_reg', 'bbox_pred', 'rtm_reg')
ROLES = ('features', 'logits', 'boxes', 'auxiliary', 'outputs', 'tower')


def family(model: nn.Module) -> str:
    """Name the family of a model.

    Returns:
        ``'segmentor'`` (mmseg's encoder-decoders), ``'cascade'``, ``'two_stage'``, ``'dense'`` (RetinaNet, FCOS, ATSS,
        GFL and their like), ``'query'`` (DETR and its like), ``'voxel'`` (PointPillars, SECOND), ``'center_points'``
        (CenterPoint and other multi-view detectors of mmdet3d), or ``''``.
    """
    names = {cls.__name__ for cls in type(model).__mro__}
    if hasattr(model, 'decode_head'):
        return 'segmentor'
    if getattr(model, 'pts_bbox_head', None) is not None:
        return 'center_points'
    if 'Base3DDetector' in names:
        return 'voxel' if hasattr(getattr(model, 'bbox_head', None), 'conv_cls') else ''
    if getattr(model, 'roi_head', None) is not None:
        return 'cascade' if isinstance(getattr(model.roi_head, 'bbox_head', None), nn.ModuleList) else 'two_stage'
    if 'DetectionTransformer' in names:
        return 'query'
    head = getattr(model, 'bbox_head', None)
    return 'dense' if head is not None and any(hasattr(head, name) for name in _SCORES) else ''


def preset(model: nn.Module) -> dict[str, str]:
    """Taps of a model by role.

    Args:
        model: Any model.

    Returns:
        ``features`` (the levels that heads read; a segmentor's last backbone stage), ``logits`` (class scores before
        sigmoid or softmax), ``boxes`` (regression outputs), ``auxiliary`` (scores of mmseg's auxiliary head),
        ``outputs`` (all that a dense or a DETR's head returns) and ``tower`` (what its class convolution reads), as far
        as the family has them.
    """
    kind = family(model)
    if kind == 'segmentor':
        taps = dict(features='backbone[-1]', logits='decode_head')
        heads = getattr(model, 'auxiliary_head', None)
        if heads is not None:
            taps['auxiliary'] = 'auxiliary_head.0' if isinstance(heads, nn.ModuleList) else 'auxiliary_head'
        if isinstance(model.decode_head, nn.ModuleList):
            taps['logits'] = f'decode_head.{len(model.decode_head) - 1}'
        return taps
    if kind == 'center_points':
        return dict(features='pts_neck' if getattr(model, 'pts_neck', None) is not None else 'pts_backbone')
    if kind == 'voxel':
        return dict(features='neck', logits='bbox_head.conv_cls', boxes='bbox_head.conv_reg')
    taps = dict(features='neck') if getattr(model, 'neck', None) is not None else {}
    if kind in ('two_stage', 'cascade'):
        head = 'roi_head.bbox_head.0' if kind == 'cascade' else 'roi_head.bbox_head'
        return {**taps, 'logits': f'{head}.fc_cls', 'boxes': f'{head}.fc_reg'}
    if kind == 'query':
        taps['outputs'] = 'bbox_head'
    if kind == 'dense':
        for role, names in (('logits', _SCORES), ('boxes', _BOXES)):
            name = next((name for name in names if hasattr(model.bbox_head, name)), None)
            if name:
                taps[role] = f'bbox_head.{name}'
        taps |= dict(outputs='bbox_head', tower=f'{taps["logits"]}<')
    return taps


def uses_sigmoid(model: nn.Module) -> bool:
    """Whether a model's class scores go through a sigmoid (else a softmax over classes, background included)."""
    head = getattr(model, 'bbox_head', None) or getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    if isinstance(head, nn.ModuleList):
        head = head[0]
    if head is None:
        head = getattr(model, 'decode_head', None)
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        loss = getattr(head, 'loss_decode', None)
        loss = loss[0] if isinstance(loss, nn.ModuleList) else loss
        return bool(getattr(loss, 'use_sigmoid', False))
    return bool(getattr(head, 'use_sigmoid_cls', getattr(getattr(head, 'loss_cls', None), 'use_sigmoid', False)))
