r"""What all ImageNet-1k experiments share: the data, streamed; views; how often to look and save.

The settings follow the papers that the experiments name, with three differences: the views are cut
from the central square of each image at 224 x 224, not from the whole image; there is no blur and
no solarisation; and the strengths of the colour changes are drawn for every view, where the papers
leave one view in five as it is.

Any of them measures a machine without the data, on made-up JPEG records of the same size:

    python main.py --config=configs/imagenet/resnet50_vicreg.py --config.data.test_split= \
        --config.data.name=synthetic:20000 --config.train.steps=100 --config.train.warmup_steps=10
"""

from typing import Any

from configs import default

IMAGES = 1_281_167  # in the training split


def get_config(*, epochs: int, batch_size: int, warmup_epochs: int = 10) -> Any:
    c = default.get_config()
    c.data.name = "tfds:imagenet2012"
    c.data.test_split = "validation"
    c.data.image_size = 224
    c.data.stream = True
    c.oracle.name = "none"

    steps = IMAGES // batch_size  # an epoch
    c.train.batch_size = batch_size
    c.train.steps = epochs * steps
    c.train.warmup_steps = warmup_epochs * steps
    c.train.rounds = 10
    c.train.log_every = 50
    c.checkpoint.every = 1000
    c.evaluate.batch_size = 2048
    c.evaluate.limit = 100_000

    c.views.crop = 0.92
    c.views.rotate = 0.0
    c.views.zoom = 0.0
    c.views.shift = 0.0
    c.views.flip = 0.5
    c.views.brightness = 0.4
    c.views.contrast = 0.4
    c.views.saturation = 0.2
    c.views.hue = 0.1
    c.views.grayscale = 0.2
    c.views.noise = 0.0
    return c


def resnet50(c: Any, projector: tuple[int, int, int]) -> None:
    """ResNet-50 trained with LARS."""
    c.model.encoder = "resnet50"
    c.model.stem = "imagenet"
    c.model.dtype = "bfloat16"
    c.model.projector = projector
    c.train.optimizer = "lars"


def vit_s(c: Any, projector: tuple[int, int, int]) -> None:
    """ViT-S/16 trained with AdamW (weight decay 0.1, as MoCo v3 has it)."""
    c.model.encoder = "vit_s"
    c.model.patch = 16
    c.model.dtype = "bfloat16"
    c.model.projector = projector
    c.train.optimizer = "adamw"
    c.train.weight_decay = 0.1


def strong_colours(c: Any) -> None:
    """SimCLR's colour changes, twice those of VICReg and Barlow Twins."""
    c.views.brightness = 0.8
    c.views.contrast = 0.8
    c.views.saturation = 0.8
    c.views.hue = 0.2
