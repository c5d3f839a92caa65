r"""Barlow Twins, ResNet-50, 800 epochs.

    python main.py --config=configs/imagenet/resnet50_barlow_twins_800.py --config.data.data_dir=DIR

Not run at full size here: CI builds it, checks its shapes and takes 3 steps on made-up records.
"""

from configs.imagenet import resnet50_barlow_twins


def get_config():
    return resnet50_barlow_twins.get_config(epochs=800)
