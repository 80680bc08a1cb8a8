"""Class names, colours and codes of Toytown, shared by the scene, the renderer and the writers."""

DETECTION = ('car', 'van', 'pedestrian', 'cyclist')
SEMANTIC = ('road', 'lane_marking', 'sidewalk', 'building', 'vegetation', 'sky', 'vehicle', 'pedestrian', 'cyclist')
PALETTE = ((128, 64, 128), (255, 255, 255), (244, 35, 232), (70, 70, 70), (107, 142, 35), (70, 130, 180), (0, 0, 142),
           (220, 20, 60), (119, 11, 32))
IGNORE = 255

ROAD, LANE_MARKING, SIDEWALK, BUILDING, VEGETATION, SKY, VEHICLE, PEDESTRIAN, CYCLIST = range(len(SEMANTIC))
SEMANTIC_OF = {'car': VEHICLE, 'van': VEHICLE, 'pedestrian': PEDESTRIAN, 'cyclist': CYCLIST}

SPLITS = ('train', 'val', 'test')
