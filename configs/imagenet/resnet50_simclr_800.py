r"""SimCLR, ResNet-50, 800 epochs.

    python main.py --config=configs/imagenet/resnet50_simclr_800.py --config.data.data_dir=DIR

Not run at full size here: CI builds it, checks its shapes and takes 3 steps on made-up records.
"""

from configs.imagenet import resnet50_simclr


def get_config():
    return resnet50_simclr.get_config(epochs=800)
