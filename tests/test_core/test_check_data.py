"""The data set doctor, on data sets of four images."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmpapers.cli.check import check_config
from mmpapers.cli.checks.finding import Finding
from mmpapers.cli.checks.segmentation import loaded

pytestmark = pytest.mark.core

SIZE = (32, 48)  # height, width


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    """Write a random JPEG or PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def coco(root: Path, name: str = 'train', first: int = 0) -> dict:
    """Write four images and return their COCO annotations: one box each, classes a and b."""
    for i in range(4):
        picture(root / f'images/{first + i}.jpg')
    return dict(
        images=[dict(id=i, file_name=f'{first + i}.jpg', height=SIZE[0], width=SIZE[1]) for i in range(4)],
        annotations=[dict(id=i, image_id=i, category_id=1 + i % 2, bbox=[4, 4, 10, 8], area=80, iscrowd=0)
                     for i in range(4)],
        categories=[dict(id=1, name='a'), dict(id=2, name='b')])


def detection(root: Path, content: dict | str, classes: tuple | None = ('a', 'b'), **dataset) -> dict[str, Finding]:
    """Check a detection config over an annotation file; return findings by message."""
    (root / 'train.json').write_text(content if isinstance(content, str) else json.dumps(content))
    dataset = dict(dict(type='CocoDataset', data_root=str(root), ann_file='train.json', data_prefix=dict(img='images/'),
                        pipeline=[]), **dataset)
    if classes:
        dataset['metainfo'] = dict(classes=classes)
    cfg = Config(dict(default_scope='mmdet', train_dataloader=dict(batch_size=2, dataset=dataset)))
    return {f.message: f for f in check_config(cfg)}


def said(found: dict[str, Finding], text: str, level: str = 'error') -> Finding:
    """Return the finding whose message holds a text, and check its level."""
    hits = [finding for message, finding in found.items() if text in message]
    assert len(hits) == 1, (text, list(found))
    assert hits[0].level == level, hits[0]
    return hits[0]


def bad(found: dict[str, Finding]) -> list[str]:
    """Messages above ``info``."""
    return [f.message for f in found.values() if f.level != 'info']


def test_correct_set_is_only_counted(tmp_path: Path) -> None:
    found = detection(tmp_path, coco(tmp_path))
    assert bad(found) == []
    said(found, 'train.json: 4 images, 4 annotations.', 'info')


def test_truncated_json(tmp_path: Path) -> None:
    said(detection(tmp_path, json.dumps(coco(tmp_path))[:-40]), 'is not a whole JSON file')


def test_json_of_another_kind(tmp_path: Path) -> None:
    said(detection(tmp_path, dict(annotations=[])), 'has no list `images`, `categories`')


@pytest.mark.parametrize('names, classes, text', [
    (('RBC', 'WBC'), ('rbc', 'WBC'), '`rbc` is spelt `RBC` in the file'),
    (('platelets', 'wbc'), ('platelet', 'wbc'), '`platelet` is spelt `platelets` in the file'),
    (('a', 'b'), ('a', 'xyz'), 'xyz is not in the file, which names a, b')])
def test_class_names(tmp_path: Path, names: tuple, classes: tuple, text: str) -> None:
    content = coco(tmp_path)
    for category, name in zip(content['categories'], names):
        category['name'] = name
    finding = said(detection(tmp_path, content, classes), text)
    assert finding.fix == f'train_dataloader = dict(dataset=dict(metainfo=dict(classes={names!r})))'


def test_classes_forgotten(tmp_path: Path) -> None:
    finding = said(detection(tmp_path, coco(tmp_path), None), 'No classes are set, so those of CocoDataset are used')
    assert "classes=('a', 'b')" in finding.fix


def test_class_order_and_subset(tmp_path: Path) -> None:
    said(detection(tmp_path, coco(tmp_path), ('b', 'a')), 'another order', 'warning')
    said(detection(tmp_path, coco(tmp_path), ('a', )), '2 annotations of b are ignored', 'warning')


@pytest.mark.parametrize('box, text, level', [
    ([4, 4, 0, 8], '1 of 4 boxes have no area', 'warning'),
    ([100, 4, 10, 8], '1 of 4 boxes lie outside their image', 'warning'),
    ([-6, 4, 10, 8], '1 of 4 boxes reach over the image border', 'warning'),
    ([4, 4, 60, 8], '1 of 4 boxes reach over the image border', 'warning'),
    ([float('nan'), 4, 10, 8], '1 of 4 boxes are NaN or infinite', 'error'),
    ([4, 4, 10], '1 annotations have no bbox of four numbers', 'error')])
def test_boxes(tmp_path: Path, box: list, text: str, level: str) -> None:
    content = coco(tmp_path)
    content['annotations'][2]['bbox'] = box
    said(detection(tmp_path, content), text, level)


def test_boxes_with_corners(tmp_path: Path) -> None:
    content = coco(tmp_path)
    for annotation in content['annotations']:
        annotation['bbox'] = [20, 15, 40, 30]
    said(detection(tmp_path, content), 'look like [x1, y1, x2, y2]')


def test_ids(tmp_path: Path) -> None:
    content = coco(tmp_path)
    content['annotations'][1]['id'] = 0
    content['images'][3]['id'] = 2
    content['annotations'][2]['category_id'] = 7
    found = detection(tmp_path, content)
    said(found, '1 annotation ids occur more than once')
    said(found, '1 image ids occur more than once')
    said(found, '1 of 4 annotations belong to no image', 'warning')
    said(found, 'category_id that the file does not define')


def test_images_without_boxes(tmp_path: Path) -> None:
    content = coco(tmp_path)
    content['annotations'] = content['annotations'][:3]
    found = detection(tmp_path, content, filter_cfg=dict(filter_empty_gt=True))
    said(found, '1 images without a usable box are dropped', 'info')
    said(detection(tmp_path, content), '1 images without a usable box are kept', 'info')


def test_empty_sets(tmp_path: Path) -> None:
    content = coco(tmp_path)
    said(detection(tmp_path, content, filter_cfg=dict(min_size=64)), 'filter_cfg drops all 4 images')
    content['annotations'] = []
    said(detection(tmp_path, content), 'None of the 4 training images has a usable box')
    said(detection(tmp_path, content, filter_cfg=dict(filter_empty_gt=True)), 'The data set is empty')
    content['images'] = []
    said(detection(tmp_path, content), 'the file lists no image')


def test_missing_corrupt_and_resized_images(tmp_path: Path) -> None:
    content = coco(tmp_path)
    (tmp_path / 'images/0.jpg').unlink()
    broken = tmp_path / 'images/1.jpg'
    broken.write_bytes(broken.read_bytes()[:300])
    picture(tmp_path / 'images/2.jpg', SIZE[::-1])
    found = detection(tmp_path, content)
    said(found, '1 of 4 images are missing')
    said(found, '1.jpg cannot be decoded')
    assert said(found, 'have another size', 'warning').fix.startswith('swap')
    said(detection(tmp_path, content, data_prefix=dict(img='')), 'All of 4 images are missing')


def test_masks_asked_for_but_absent(tmp_path: Path) -> None:
    steps = [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    said(detection(tmp_path, coco(tmp_path), pipeline=steps), 'no annotation of train.json has a `segmentation`')


def test_paths(tmp_path: Path) -> None:
    coco(tmp_path)
    found = detection(tmp_path, coco(tmp_path), ann_file='trian.json')
    assert f"ann_file='{tmp_path}/train.json'" in said(found, 'did you mean').fix
    found = detection(tmp_path, coco(tmp_path), data_prefix=dict(img='image/'))
    assert f'{tmp_path}/images' in said(found, 'The folder').message
    found = detection(tmp_path, coco(tmp_path), data_root=str(tmp_path / 'nothing'))
    said(found, 'The data root')


def test_checkpoints(tmp_path: Path) -> None:
    (tmp_path / 'epoch_1.pth').touch()
    (tmp_path / 'epoch_12.pth').write_bytes(b'x')
    model = dict(type='RetinaNet', backbone=dict(type='ResNet', depth=18, init_cfg=dict(
        type='Pretrained', checkpoint='torchvision://resnet18')))
    for name, text, level in (('epoch_1.pth', 'is empty', 'error'), ('epoch_2.pth', 'did you mean', 'error')):
        cfg = Config(dict(default_scope='mmdet', model=model, load_from=str(tmp_path / name)))
        found = {f.message: f for f in check_config(cfg)}
        assert said(found, text, level).where == 'load_from'
        said(found, 'are downloaded', 'info')


def test_overlap_and_batch_size(tmp_path: Path) -> None:
    (tmp_path / 'train.json').write_text(json.dumps(coco(tmp_path)))
    (tmp_path / 'val.json').write_text(json.dumps(coco(tmp_path, first=3)))

    def dataset(name: str) -> dict:
        return dict(type='CocoDataset', data_root=str(tmp_path), ann_file=name, data_prefix=dict(img='images/'),
                    metainfo=dict(classes=('a', 'b')))
    train = dict(type='RepeatDataset', times=2, dataset=dataset('train.json'))
    cfg = Config(dict(default_scope='mmdet', train_dataloader=dict(batch_size=8, dataset=train),
                      val_dataloader=dict(dataset=dataset('val.json'))))
    found = {f.message: f for f in check_config(cfg)}
    said(found, '1 of the 4 images of the val split are in the training set too, e.g. 3.jpg', 'warning')
    said(found, 'The batch size 8 exceeds the 4 training images', 'warning')


def test_missing_test_set_does_not_stop_training(tmp_path: Path) -> None:
    cfg = Config(dict(default_scope='mmdet', test_dataloader=dict(dataset=dict(
        type='CocoDataset', data_root=str(tmp_path), ann_file='test.json'))))
    assert [f.level for f in check_config(cfg)] == ['warning']


def voc(root: Path, name: str = 'dog', box: tuple = (5, 5, 20, 20)) -> dict[str, Finding]:
    """Write a VOC data set and check it."""
    (root / 'Annotations').mkdir()
    for i in range(4):
        picture(root / f'JPEGImages/{i}.jpg')
        sides = ''.join(f'<{k}>{v}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), box))
        (root / f'Annotations/{i}.xml').write_text(
            f'<annotation><object><name>{name}</name><bndbox>{sides}</bndbox></object></annotation>')
    (root / 'list.txt').write_text('0\n1\n2\n3\n')
    cfg = Config(dict(default_scope='mmdet', train_dataloader=dict(batch_size=2, dataset=dict(
        type='VOCDataset', data_root=str(root), ann_file='list.txt', data_prefix=dict(sub_data_root='')))))
    return {f.message: f for f in check_config(cfg)}


def test_voc(tmp_path: Path) -> None:
    (tmp_path / 'VOC2007').mkdir()
    assert bad(voc(tmp_path / 'VOC2007')) == []


@pytest.mark.parametrize('name, box, text, level', [
    ('Dog', (5, 5, 20, 20), '`Dog` looks like the class `dog`', 'error'),
    ('dog', (5, 5, 5, 20), '4 boxes have no area', 'warning'),
    ('spoon', (5, 5, 20, 20), 'The data set is empty', 'error')])
def test_voc_mistakes(tmp_path: Path, name: str, box: tuple, text: str, level: str) -> None:
    root = tmp_path / 'VOC2007'
    root.mkdir()
    said(voc(root, name, box), text, level)


def segmentation(root: Path, values: list[int], classes: tuple = ('a', 'b', 'c'), mode: str = 'L',
                 **dataset) -> dict[str, Finding]:
    """Write four images with label maps of the given values and check them."""
    for i in range(4):
        picture(root / f'img/{i}.jpg')
        mask = np.resize(np.array(values, dtype=np.uint8), SIZE)
        path = root / f'ann/{i}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).convert(mode).save(path)
    dataset = dict(dict(type='BaseSegDataset', data_root=str(root), metainfo=dict(classes=classes), pipeline=[],
                        data_prefix=dict(img_path='img', seg_map_path='ann')), **dataset)
    cfg = Config(dict(default_scope='mmseg', train_dataloader=dict(batch_size=2, dataset=dataset)))
    return {f.message: f for f in check_config(cfg)}


def test_correct_label_maps(tmp_path: Path) -> None:
    found = segmentation(tmp_path, [0, 1, 2, 255])
    assert bad(found) == []
    said(found, '4 label maps of train hold the values 0..2, 255; 25.0% of the pixels are ignored.', 'info')


@pytest.mark.parametrize('values, options, text, fix', [
    ([0, 1, 2, 7], {}, '7 (25.0% of the pixels', 'correct the label maps'),
    ([1, 2, 3], {}, '3 (33.3% of the pixels', 'reduce_zero_label=True'),
    ([0, 1, 2, 3], {}, '3 (25.0% of the pixels', 'ignore_index=3'),
    ([0, 1, 2], dict(reduce_zero_label=True), 'reduce_zero_label ignores the value 0 (`a`)', 'reduce_zero_label=False'),
    ([0, 255], dict(metainfo=dict(classes=('bg', 'fg'))), 'the class `fg` never occurs', '0 and 1'),
    ([0, 1], dict(seg_map_suffix='_mask.png'), '4 of 4 label maps are missing', 'seg_map_suffix'),
    ([0, 1], dict(img_suffix='.tif'), 'The data set is empty', "img_suffix='.jpg'"),
    ([0, 1], dict(type='CityscapesDataset'), 'are not among the classes of CityscapesDataset', 'BaseSegDataset'),
    ([0, 1], dict(mode='RGB'), 'has 3 channels', 'single-channel'),
    ([0, 1], dict(pipeline=[dict(type='LoadAnnotations', reduce_zero_label=True)]), 'but the data set has False',
     'reduce_zero_label=True')])
def test_label_mistakes(tmp_path: Path, values: list[int], options: dict, text: str, fix: str) -> None:
    assert fix in said(segmentation(tmp_path, values, **options), text).fix


def test_label_map_of_another_size(tmp_path: Path) -> None:
    segmentation(tmp_path, [0, 1])
    picture(tmp_path / 'img/1.jpg', (16, 16))
    dataset = dict(type='BaseSegDataset', data_root=str(tmp_path), metainfo=dict(classes=('a', 'b')),
                   data_prefix=dict(img_path='img', seg_map_path='ann'))
    cfg = Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=dataset)))
    said({f.message: f for f in check_config(cfg)}, 'is (32, 48), but its image is (16, 16)')


def test_loaded_is_what_mmseg_loads(tmp_path: Path) -> None:
    from mmseg.datasets.transforms import LoadAnnotations
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / 'm.png')
    for reduce, label_map in ((False, {}), (True, {}), (True, {0: 255, 3: 1}), (False, {11: 255})):
        row = dict(seg_map_path=str(tmp_path / 'm.png'), reduce_zero_label=reduce, label_map=label_map or None,
                   seg_fields=[])
        assert np.array_equal(LoadAnnotations()(row)['gt_seg_map'].ravel(), loaded(reduce, label_map))
