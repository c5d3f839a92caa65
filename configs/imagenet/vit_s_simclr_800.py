r"""SimCLR, ViT-S/16, 800 epochs.

    python main.py --config=configs/imagenet/vit_s_simclr_800.py --config.data.data_dir=DIR

Not run at full size here: CI builds it, checks its shapes and takes 3 steps on made-up records.
"""

from configs.imagenet import vit_s_simclr


def get_config():
    return vit_s_simclr.get_config(epochs=800)
