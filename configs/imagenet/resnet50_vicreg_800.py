r"""VICReg, ResNet-50, 800 epochs.

    python main.py --config=configs/imagenet/resnet50_vicreg_800.py --config.data.data_dir=DIR

Not run at full size here: CI builds it, checks its shapes and takes 3 steps on made-up records.
"""

from configs.imagenet import resnet50_vicreg


def get_config():
    c = resnet50_vicreg.get_config(epochs=800)
    c.train.learning_rate = 1.6  # what the paper takes for long runs
    return c
