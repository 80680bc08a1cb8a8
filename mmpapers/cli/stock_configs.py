"""Which families of stock mmdet, mmseg and mmdet3d configs train a step and predict here, without a compiler.

One representative config of each folder of the installed toolboxes is built as configured (only pretrained weights are
left out, SyncBN becomes BN, and images are small), trained one step on a fake batch and asked for predictions, each in
a process of its own with a time limit. Results go to a JSON file as they come, and a second run continues it; the table
is written from that file, and keeps the sections of toolboxes of which the file knows nothing.
"""

import argparse
import importlib
import json
import multiprocessing
import re
import sys
import time
import warnings
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

from mmpapers.cli import stock_data, stock_data3d
from mmpapers.cli.stock_table import write_table

SIZE = (192, 320)
# Folders that hold data sets, schedules or test-time settings of models that other folders hold.
DATA_ONLY = {'mmdet': {'_base_', 'cityscapes', 'common', 'deepfashion', 'dsdl', 'lvis', 'objects365', 'openimages',
                       'pascal_voc', 'v3det', 'wider_face'}, 'mmseg': {'_base_', 'dsdl'},
             'mmdet3d': {'_base_', 'benchmark', 'nuimages'}}  # the models of nuimages are mmdet's
# Where the rule of `representatives` would take a config that is untypical or larger than need be, or misses an op.
CHOSEN = {
    'mmdet/bytetrack': ['bytetrack_yolox_x_8xb4-amp-80e_crowdhuman-mot17halftrain_test-mot17halfval'],
    'mmdet/carafe': ['faster-rcnn_r50_fpn-carafe_1x_coco'],
    'mmdet/cascade_rpn': ['cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco'],
    'mmdet/centernet': ['centernet_r18-dcnv2_8xb16-crop512-140e_coco', 'centernet-update_r50-caffe_fpn_ms-1x_coco'],
    'mmdet/dcn': ['faster-rcnn_r50_fpn_dpool_1x_coco', 'faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco'],
    'mmdet/dcnv2': ['faster-rcnn_r50_fpn_mdpool_1x_coco', 'faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco'],
    'mmdet/detectors': ['detectors_cascade-rcnn_r50_1x_coco'],
    'mmdet/gcnet': ['mask-rcnn_r50-syncbn-gcb-r4-c3-c5_fpn_1x_coco'],
    'mmdet/guided_anchoring': ['ga-faster-rcnn_r50_fpn_1x_coco', 'ga-retinanet_r50_fpn_1x_coco'],
    'mmdet/hrnet': ['faster-rcnn_hrnetv2p-w18-1x_coco'],
    'mmdet/ld': ['ld_r18-gflv1-r101_fpn_1x_coco'],
    'mmdet/libra_rcnn': ['libra-faster-rcnn_r50_fpn_1x_coco'],
    'mmdet/mask2former': ['mask2former_r50_8xb2-lsj-50e_coco', 'mask2former_r50_8xb2-lsj-50e_coco-panoptic'],
    'mmdet/mm_grounding_dino': ['grounding_dino_swin-t_pretrain_obj365'],
    'mmdet/nas_fpn': ['retinanet_r50_nasfpn_crop640-50e_coco'],
    'mmdet/ocsort': ['ocsort_yolox_x_8xb4-amp-80e_crowdhuman-mot17halftrain_test-mot17halfval'],
    'mmdet/pvt': ['retinanet_pvt-t_fpn_1x_coco', 'retinanet_pvtv2-b0_fpn_1x_coco'],
    'mmdet/qdtrack': ['qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval'],
    'mmdet/regnet': ['faster-rcnn_regnetx-400MF_fpn_ms-3x_coco'],
    'mmdet/res2net': ['faster-rcnn_res2net-101_fpn_2x_coco'],
    'mmdet/rtmdet': ['rtmdet_tiny_8xb32-300e_coco', 'rtmdet-ins_tiny_8xb32-300e_coco'],
    'mmdet/sort': ['faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval',
                   'sort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval'],
    'mmdet/ssd': ['ssd300_coco', 'ssdlite_mobilenetv2-scratch_8xb24-600e_coco'],
    'mmdet/strongsort': ['yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval',
                         'strongsort_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval'],
    'mmdet/yolo': ['yolov3_mobilenetv2_8xb24-320-300e_coco'],
    'mmdet/yolox': ['yolox_tiny_8xb8-300e_coco'],
    'mmdet3d/centerpoint': ['centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d',
                            'centerpoint_voxel01_second_secfpn_head-dcn_8xb4-cyclic-20e_nus-3d'],
    'mmdet3d/cylinder3d': ['cylinder3d_4xb4-3x_semantickitti'],
    'mmdet3d/dynamic_voxelization': ['pointpillars_dv_secfpn_8xb6-160e_kitti-3d-car',
                                     'second_dv_secfpn_8xb2-cosine-80e_kitti-3d-3class'],
    'mmdet3d/fcaf3d': ['fcaf3d_2xb8_scannet-3d-18class'],
    'mmdet3d/imvotenet': ['imvotenet_faster-rcnn-r50_fpn_4xb2_sunrgbd-3d', 'imvotenet_stage2_8xb16_sunrgbd-3d'],
    'mmdet3d/imvoxelnet': ['imvoxelnet_2xb4_sunrgbd-3d-10class', 'imvoxelnet_8xb4_kitti-3d-car'],
    'mmdet3d/minkunet': ['minkunet18_w16_torchsparse_8xb2-amp-15e_semantickitti',
                         'minkunet34_w32_minkowski_8xb2-laser-polar-mix-3x_semantickitti',
                         'minkunet34_w32_spconv_8xb2-laser-polar-mix-3x_semantickitti'],
    'mmdet3d/paconv': ['paconv_ssg-cuda_8xb8-cosine-200e_s3dis-seg', 'paconv_ssg_8xb8-cosine-150e_s3dis-seg'],
    'mmdet3d/parta2': ['parta2_hv_secfpn_8xb2-cyclic-80e_kitti-3d-3class'],
    'mmdet3d/pgd': ['pgd_r101-caffe_fpn_head-gn_16xb2-1x_nus-mono3d',
                    'pgd_r101-caffe_fpn_head-gn_4xb3-4x_kitti-mono3d'],
    'mmdet3d/pointnet2': ['pointnet2_msg_2xb16-cosine-80e_s3dis-seg', 'pointnet2_ssg_2xb16-cosine-200e_scannet-seg'],
    'mmdet3d/pointpillars': ['pointpillars_hv_fpn_sbn-all_8xb4-2x_nus-3d',
                             'pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class'],
    'mmdet3d/regnet': ['pointpillars_hv_regnet-400mf_fpn_sbn-all_8xb4-2x_nus-3d'],
    'mmdet3d/second': ['second_hv_secfpn_8xb6-80e_kitti-3d-3class'],
    'mmdet3d/spvcnn': ['spvcnn_w16_8xb2-amp-15e_semantickitti'],
    'mmdet3d/ssn': ['ssn_hv_secfpn_sbn-all_16xb2-2x_nus-3d'],
    'mmdet3d/votenet': ['votenet_8xb16_sunrgbd-3d', 'votenet_8xb8_scannet-3d'],
    'mmseg/bisenetv1': ['bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024'],
    'mmseg/convnext': ['convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512'],
    'mmseg/ddrnet': ['ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024'],
    'mmseg/hrnet': ['fcn_hr18s_4xb4-80k_ade20k-512x512'],
    'mmseg/ocrnet': ['ocrnet_hr18s_4xb4-80k_ade20k-512x512'],
    'mmseg/pidnet': ['pidnet-s_2xb6-120k_1024x1024-cityscapes'],
    'mmseg/poolformer': ['fpn_poolformer_s12_8xb4-40k_ade20k-512x512'],
    'mmseg/san': ['san-vit-b16_coco-stuff164k-640x640'],  # the only one whose class weights fit its classes
    'mmseg/segmenter': ['segmenter_vit-t_mask_8xb1-160k_ade20k-512x512'],
    'mmseg/segnext': ['segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512'],
    'mmseg/swin': ['swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512'],
    'mmseg/twins': ['twins_svt-s_uperhead_8xb2-160k_ade20k-512x512'],
    'mmseg/vit': ['vit_deit-s16_upernet_8xb2-80k_ade20k-512x512'],
}


# Models whose layers need larger images than the others.
SIZES = {'ssd300_coco': (320, 320), 'mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024': (400, 400)}
# What a missing package takes, where it is more than its own name.
PACKAGES = {'transformers': 'the package transformers and the BERT weights that it downloads',
            'fairscale': 'the packages fairscale and transformers, and the BERT weights that the latter downloads',
            'mmpretrain': 'the packages mmpretrain and torchvision',
            'minkowski': 'MinkowskiEngine, which has no wheel and is built with a compiler',
            'torchsparse': 'torchsparse, which has no wheel and is built with a compiler'}


class Family(NamedTuple):
    """One line of the table.

    Attributes:
        toolbox: mmdet, mmseg or mmdet3d.
        name: Folder of the configs.
        config: Path of the representative config.
    """
    toolbox: str
    name: str
    config: Path

    @property
    def key(self) -> str:
        """What names the line in the results, e.g. ``mmdet/dcn/faster-rcnn_r50_fpn_dpool_1x_coco``."""
        return f'{self.toolbox}/{self.name}/{self.config.stem}'


def representatives() -> list[Family]:
    """List one config of each model family of the installed toolboxes, two where the family has two kinds of op.

    The rule: a ResNet-50 config if there is one, then the shortest name; exceptions in :data:`CHOSEN`.
    """
    found = []
    for toolbox, skipped in DATA_ONLY.items():
        root = Path(util.find_spec(toolbox).origin).parent / '.mim/configs'
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name not in skipped):
            stems = sorted((file.stem for file in folder.glob('*.py') if not file.stem.endswith('_tta')),
                           key=lambda stem: (not re.search(r'[-_]r50', stem), len(stem), stem))
            chosen = CHOSEN.get(f'{toolbox}/{folder.name}', stems[:1])
            found += [Family(toolbox, folder.name, folder / f'{stem}.py') for stem in chosen]
    return found


def run_family(family: Family, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """Build the model of a config, train one step and predict.

    Args:
        family: What to run.
        size: Height and width of the images; smaller ones shrink the run.

    Returns:
        ``train`` and ``predict``: 'yes', 'no', or '-' where the toolbox does not train it; ``seconds`` of all;
        ``step``: seconds of the processor for the training step; ``memory``: most that the process has held until then,
        in GB, or None where the system does not tell; ``base``: the same at the start; ``reason``: one sentence for
        each that is not 'yes'.
    """
    from mmengine.registry import DefaultScope
    result = {'train': 'no', 'predict': 'no', 'seconds': 0.0, 'reason': ''}
    start = time.perf_counter()
    base = _peak_memory()
    reasons, size = [], SIZES.get(family.config.stem, size)
    with DefaultScope.overwrite_default_scope(family.toolbox):
        try:
            cfg, model = _build(family, size)
        except Exception as error:  # noqa: BLE001
            reasons, stages = [_sentence('build', error)], ()
        else:
            stages = ('train', _train, 'training_batch'), ('predict', _predict, 'test_batch')
        data = stock_data3d if family.toolbox == 'mmdet3d' else stock_data
        for stage, step, batch in stages:
            try:
                inputs = getattr(data, batch)(cfg, size)
                begin = time.process_time()
                step(model, inputs)
                result[stage] = 'yes'
                if stage == 'train':
                    result |= {'step': round(time.process_time() - begin, 1), 'memory': _peak_memory(),
                               'base': base}
            except Exception as error:  # noqa: BLE001
                if 'train `detector`' in str(error):
                    result[stage] = '-'
                    reasons.append('mmdet trains the detector and the identifier of this tracker by other configs.')
                else:
                    reasons.append(_sentence(stage, error))
    return result | {'reason': ' '.join(dict.fromkeys(reasons)), 'seconds': round(time.perf_counter() - start, 1)}


def _build(family: Family, size: tuple[int, int]) -> tuple[Any, Any]:
    """Return the config and its model, with fresh weights."""
    import torch
    from mmengine.config import Config
    from mmengine.logging import MessageHub
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS

    from mmpapers.compat import setup
    torch.manual_seed(0)
    setup()
    for name, value in {'iter': 0, 'epoch': 0, 'max_iters': 1000, 'max_epochs': 12}.items():
        MessageHub.get_current_instance().update_info(name, value)  # some heads ask the runner how far it is
    cfg = Config.fromfile(family.config)
    _prepare(cfg, family, size)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    if family.name == 'san':  # mmseg's code initialises it from CLIP's weights or not at all
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    else:
        model.init_weights()
    return cfg, model


def _prepare(cfg: Any, family: Family, size: tuple[int, int]) -> None:
    """Leave out pretrained weights and fixed sizes.

    Raises:
        ValueError: If the config has no model.
    """
    if 'model' not in cfg:
        raise ValueError(f'{family.config.name} has no model')
    root = family.config.parents[1]

    def strip(node: Any) -> None:
        for key, value in list(node.items()) if isinstance(node, dict) else enumerate(node):
            weights = key == 'init_cfg' and isinstance(value, dict) and 'checkpoint' in value
            # batch_augments pad or resize to the size of the published recipe
            if weights or key in ('pretrained', 'teacher_ckpt', 'batch_augments'):
                node[key] = None
            elif value == 'MMSyncBN':  # cannot be built without a process group, and so not be reverted after
                node[key] = 'BN'
            elif isinstance(value, str) and value.startswith('configs/'):
                node[key] = str(root / value.removeprefix('configs/'))
            elif isinstance(value, (dict, list)):
                strip(value)

    strip(cfg.model)
    if family.toolbox == 'mmseg' and 'data_preprocessor' in cfg.model:
        cfg.model.data_preprocessor.update(size=size, size_divisor=None, test_cfg=None)
        if cfg.model.get('backbone', {}).get('type') in ('BEiT', 'MAE'):  # position biases of a fixed size
            cfg.model.backbone.img_size = size


def _train(model: Any, batch: dict) -> None:
    """One step: finite loss, finite gradients, at least one of them not zero.

    Raises:
        ArithmeticError: If not.
    """
    model.train()
    data = model.data_preprocessor(batch, True)
    loss, terms = model.parse_losses(model(**data, mode='loss'))
    if not loss.isfinite():
        raise ArithmeticError(f'the loss is not finite: { {k: float(v) for k, v in terms.items()} }')
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if not all(g.isfinite().all() for g in grads) or not any(g.any() for g in grads):
        raise ArithmeticError('a gradient is not finite, or all of them are zero')


def _predict(model: Any, batch: dict) -> None:
    """Predict in evaluation mode.

    Raises:
        ArithmeticError: If there is not one result for the one image.
    """
    import torch
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch, False), mode='predict')
    if len(results) != 1:
        raise ArithmeticError(f'{len(results)} results for one image')


def _peak_memory() -> float | None:
    """Most memory that this process has had, in GB."""
    if not util.find_spec('resource'):
        return None
    import resource
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == 'darwin' else 1e6), 1)


def _sentence(stage: str, error: Exception) -> str:
    """Say why a stage failed, in one sentence."""
    text = ' '.join(str(error).split())
    while error.__cause__ is not None:
        error = error.__cause__
    missing = re.search(r"No module named '(\w+)|custom modules from .'imports': \[?'(\w+)|(?:mim|pip) install "
                        r'(?!openmim)(\w+)|(\w+) is not installed|Please install (\w+) first|'
                        r'to install (Torchsparse|Minkowski)', f'{text} {error}')
    if 'requirements/optional.txt' in text:
        return f"{stage}: needs Stable Diffusion: the packages of mmseg's optional requirements and its weights."
    if missing:
        name = next(filter(None, missing.groups())).lower()
        return f'{stage}: needs {PACKAGES.get(name, f"the package {name}")}, not in the pinned stack.'
    return f'{stage}: {type(error).__name__}: {text[:200]}'


def _in_process(family: Family, size: tuple[int, int], limit: float, threads: int) -> dict[str, Any]:
    """Run a family in a forked process that is ended after ``limit`` seconds."""
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(family, size, threads, sender))
    process.start()
    sender.close()
    try:
        if receiver.poll(limit):
            return receiver.recv()
        reason = f'not finished after {limit:.0f} s'
    except EOFError:
        process.join()
        reason = f'the process ended with code {process.exitcode} (out of memory?)'
    finally:
        process.kill()
        process.join()
    return {'train': 'no', 'predict': 'no', 'seconds': limit, 'reason': reason}


def _child(family: Family, size: tuple[int, int], threads: int, sender: Any) -> None:
    """Run a family and send its result."""
    import torch
    warnings.simplefilter('ignore')
    torch.set_num_threads(threads)
    sender.send(run_family(family, size))


def _import_toolboxes() -> None:
    """Import what every family needs, so that the forked processes begin with it, and silence mmengine's log."""
    from mmengine.logging import MMLogger

    from mmpapers.compat import setup
    setup()
    for module in ('mmdet.models', 'mmseg.models', 'mmdet3d.models'):
        importlib.import_module(module)
    MMLogger.get_instance('stock_configs', log_level='ERROR')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the families that the results do not hold yet, and write the table."""
    parser = argparse.ArgumentParser(prog='stock_configs', description=__doc__.splitlines()[0])
    parser.add_argument('--only', nargs='+', default=[], metavar='TEXT', help='families whose key holds one of these '
                        'texts, e.g. mmdet/dcn; they are run again')
    parser.add_argument('--failed', action='store_true', help='run again what failed before')
    parser.add_argument('--results', type=Path, default=Path('work_dirs/stock_configs.json'), help='results so far')
    parser.add_argument('--table', type=Path, default=Path('docs/stock_configs.md'), help='page to write')
    parser.add_argument('--limit', type=float, default=600, help='seconds for one family')
    parser.add_argument('--size', type=int, nargs=2, default=SIZE, metavar=('HEIGHT', 'WIDTH'),
                        help='size of the images; smaller ones shrink the run')
    parser.add_argument('--threads', type=int, default=1, help="threads of torch in a family's process")
    args = parser.parse_args(argv)
    results = json.loads(args.results.read_text('utf-8')) if args.results.is_file() else {}
    wanted = [family for family in representatives() if (
        any(text in family.key for text in args.only) if args.only else family.key not in results
        or args.failed and 'no' in (results[family.key]['train'], results[family.key]['predict']))]
    if wanted:
        _import_toolboxes()
    args.results.parent.mkdir(parents=True, exist_ok=True)
    for count, family in enumerate(wanted, 1):
        row = results[family.key] = _in_process(family, tuple(args.size), args.limit, args.threads)
        print(f'{count}/{len(wanted)} {family.key}: train {row["train"]}, predict {row["predict"]}, '
              f'{row["seconds"]:.0f} s {row["reason"]}', flush=True)
        args.results.write_text(json.dumps(results, indent=1), 'utf-8')
    write_table(results, args.table, SIZE, SIZES, set.union(*DATA_ONLY.values()) - {'_base_'})
    print(f'table: {args.table}')
    return 0
