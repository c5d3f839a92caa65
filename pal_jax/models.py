"""Encoders and projector behind two functions, `init` and `apply`: the only file that imports flax.

Parameters and outputs are float32; the compute dtype in between may be bfloat16. BatchNorm takes
its statistics over all rows it is given, which under jit on a sharded batch is the global batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pal_jax.convolution import convolve
from pal_jax.errors import UserError, pick

Variables = Mapping[str, Any]
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Model(NamedTuple):
    """A network as two pure functions.

    Attributes:
        init: (key, x [N, ...]) -> variables: {"params": ...} and, if there is BatchNorm,
            {"batch_stats": ...}. Only the shape of x past its first axis matters.
        apply: (variables, x [N, ...], *, train) -> (h [N, H], z [N, K], batch_stats), all float32.
            x is what views.py makes. With train=True, BatchNorm uses the statistics of x, and
            batch_stats are the updated running ones; with train=False, the running ones, returned
            as they came. Models without BatchNorm return {}.
    """

    init: Callable[[Array, Array], Variables]
    apply: Callable[..., tuple[Array, Array, Variables]]


def build(
    encoder: str,
    *,
    width: int = 0,
    projector: tuple[int, int, int] = (256, 2, 128),
    dtype: str = "float32",
    stem: str = "cifar",
    patch: int = 4,
) -> Model:
    """The encoder of that name with a projector on top.

    Args:
        encoder: a key of ENCODERS.
        width: the encoder's width (see its docstring); 0 takes its default.
        projector: (hidden, layers, out). Linear - BatchNorm - ReLU of `hidden` units, layers - 1
            times, then Linear to `out` without bias: three layers is VICReg and Barlow Twins, two
            layers is SimCLR. With 0 layers z is h, and the other two numbers are not read.
        dtype: compute dtype, a key of DTYPES.
        stem: of the ResNets, a key of STEMS.
        patch: side in pixels of the patches of a ViT; must divide the image's sides.

    Raises:
        UserError: an unknown name, or a size that is not positive; and from `init`, a sample that
            the encoder cannot take.
    """
    if len(projector) != 3 or not all(isinstance(size, int) for size in projector):
        raise UserError(
            f"model.projector={projector} must be three whole numbers: (hidden, layers, out)"
        )
    hidden, layers, out = projector
    for name, size, works in (
        ("width", width, width >= 0),
        ("projector", projector, not layers or min(projector) >= 1),
        ("patch", patch, patch >= 1),
    ):
        if not works:
            raise UserError(f"model.{name}={size} cannot work; its sizes must be positive")
    compute = pick(DTYPES, dtype, "dtype")
    pick(STEMS, stem, "stem")
    net = _Network(
        encoder=pick(ENCODERS, encoder, "encoder")(
            width=width, dtype=compute, stem=stem, patch=patch
        ),
        projector=Projector(hidden, layers, out, compute),
    )

    def init(key: Array, x: Array) -> Variables:
        # Two rows do: parameters depend on the other axes alone.
        with jax.numpy_dtype_promotion("standard"):
            return cast(Variables, net.init(key, jnp.zeros((2, *x.shape[1:]), jnp.float32), False))

    def apply(variables: Variables, x: Array, *, train: bool) -> tuple[Array, Array, Variables]:
        mutable = ["batch_stats"] if train else []
        # flax mixes bfloat16 with float32 on purpose, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            (h, z), updated = cast(Any, net.apply(variables, x, train, mutable=mutable))
        return h, z, (updated if train else variables).get("batch_stats", {})

    return Model(init, apply)


class _Network(nn.Module):
    encoder: nn.Module
    projector: nn.Module

    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        if x.ndim != 4 and not isinstance(self.encoder, Mlp):
            raise UserError(
                f"encoder {type(self.encoder).__name__} needs images, and a sample here is "
                f"{list(x.shape[1:])}; the encoder for features is 'mlp'"
            )
        h = self.encoder(x, train)
        z = self.projector(h, train)
        # Losses and kNN sum over many rows: float32 whatever the compute dtype.
        return h.astype(jnp.float32), z.astype(jnp.float32)


def _batch_norm(train: bool, dtype: Any, name: str | None = None, **options: Any) -> nn.BatchNorm:
    # Running statistics of the last ten steps or so; flax's 0.99 outlives short CPU runs.
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, dtype=dtype, name=name, **options
    )


class Conv(nn.Module):
    """A convolution without bias; zeros around the images keep the grid's size (see `convolve`)."""

    width: int
    side: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.side, self.side, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


class Projector(nn.Module):
    """Linear - BatchNorm - ReLU, layers - 1 times, then Linear; see `build`."""

    hidden: int
    layers: int
    out: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Array, train: bool) -> Array:
        for _ in range(self.layers - 1):
            h = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype)(h)
            h = nn.relu(_batch_norm(train, self.dtype)(h))
        return nn.Dense(self.out, use_bias=False, dtype=self.dtype)(h) if self.layers else h


class Mlp(nn.Module):
    """Three Linear - BatchNorm - ReLU layers of `width` (512) on features or flattened images."""

    width: int = 512
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = x.reshape(len(x), -1)
        for _ in range(3):
            x = nn.Dense(self.width, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(_batch_norm(train, self.dtype)(x))
        return x


class ConvNet(nn.Module):
    """A small convolutional net for 8x8 to 32x32 images, sized for CPUs; h is 8 `width` (32) wide.

    The grid is halved by merging 2x2 patches, a matrix product, which costs CPUs less than strided
    convolutions. A 3x3 convolution where it is cheap lets patches overlap: first of all on images
    up to 16x16, on the 8x8 and 4x4 grids of larger ones. All layers end in BatchNorm and ReLU; the
    last one is dense, since where a stroke lies tells digits apart.
    """

    width: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        def norm(x: Array) -> Array:
            return nn.relu(_batch_norm(train, self.dtype)(x))

        def dense(x: Array, width: int) -> Array:
            # As a matrix: on CPUs the weight gradient of a product of four axes is much slower.
            rows = x.reshape(-1, x.shape[-1])
            rows = norm(nn.Dense(width, use_bias=False, dtype=self.dtype)(rows))
            return rows.reshape(*x.shape[:-1], width)

        def conv(x: Array, width: int) -> Array:
            return norm(Conv(width, 3, dtype=self.dtype)(x))

        if max(x.shape[1:3]) <= 16:
            x = conv(x, self.width)
            x = dense(_merge_patches(x), 2 * self.width)
            x = dense(_merge_patches(x), 4 * self.width)
        else:
            x = dense(_merge_patches(x), self.width)
            x = dense(_merge_patches(x), 2 * self.width)
            x = x + conv(x, 2 * self.width)
            x = dense(_merge_patches(x), 4 * self.width)
            x = x + conv(x, 4 * self.width)
            x = dense(_merge_patches(x), 4 * self.width)
        return dense(x.reshape(len(x), -1), 8 * self.width)


def _merge_patches(x: Array) -> Array:
    """[n, H, W, C] -> [n, ceil(H/2), ceil(W/2), 4 C]; odd sides get a last row or column of 0."""
    n, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    x = x.reshape(n, -(-height // 2), 2, -(-width // 2), 2, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], x.shape[3], 4 * channels)


PAD_GRID = ((0, 0), (1, 1), (1, 1), (0, 0))


def _cifar_stem(x: Array, width: int, train: bool, dtype: Any) -> Array:
    x = Conv(width, 3, dtype=dtype, name="stem")(x)
    return nn.relu(_batch_norm(train, dtype, "stem_norm")(x))


def _imagenet_stem(x: Array, width: int, train: bool, dtype: Any) -> Array:
    x = Conv(width, 7, 2, dtype, name="stem")(x)
    x = nn.relu(_batch_norm(train, dtype, "stem_norm")(x))
    return nn.max_pool(jnp.pad(x, PAD_GRID), (3, 3), (2, 2))  # ReLU: 0 is as good as -inf


# cifar: 3x3 at full size, no pooling (SimCLR, appendix B.9). imagenet: 7x7 / 2, then 3x3 max / 2.
STEMS = {"cifar": _cifar_stem, "imagenet": _imagenet_stem}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    width: int
    stride: int
    dtype: Any

    expansion = 1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = Conv(self.width, 3, self.stride, self.dtype)(x)
        y = nn.relu(_batch_norm(train, self.dtype)(y))
        y = Conv(self.width, 3, dtype=self.dtype)(y)
        return _join(x, y, self.stride, train, self.dtype)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which strides, as in ResNet v1.5) and 1x1 convolutions beside a shortcut."""

    width: int
    stride: int
    dtype: Any

    expansion = 4

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = nn.relu(_batch_norm(train, self.dtype)(Conv(self.width, 1, dtype=self.dtype)(x)))
        y = Conv(self.width, 3, self.stride, self.dtype)(y)
        y = nn.relu(_batch_norm(train, self.dtype)(y))
        y = Conv(4 * self.width, 1, dtype=self.dtype)(y)
        return _join(x, y, self.stride, train, self.dtype)


def _join(x: Array, y: Array, stride: int, train: bool, dtype: Any) -> Array:
    """ReLU(shortcut(x) + BatchNorm(y)); the shortcut is a 1x1 convolution where shapes differ."""
    # A scale of 0 makes each block the identity at the start (Goyal et al. 2017).
    y = _batch_norm(train, dtype, "last_norm", scale_init=nn.initializers.zeros)(y)
    if x.shape != y.shape:
        x = Conv(y.shape[-1], 1, stride, dtype, name="shortcut")(x)
        x = _batch_norm(train, dtype, "shortcut_norm")(x)
    return nn.relu(x + y)


class ResNet(nn.Module):
    """He et al. 2015: four stages, the first of `width` (64); each next is twice as wide."""

    depths: Sequence[int]
    block: type[BasicBlock] | type[Bottleneck]
    width: int = 64
    stem: str = "cifar"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = STEMS[self.stem](x, self.width, train, self.dtype)
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                x = self.block(self.width * 2**stage, stride, self.dtype)(x, train)
        return x.mean(axis=(1, 2))


class VitBlock(nn.Module):
    """Attention and MLP, each after LayerNorm and beside an identity."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        xavier = nn.initializers.xavier_uniform()
        y = nn.LayerNorm(dtype=self.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(
            self.heads, dtype=self.dtype, kernel_init=xavier, deterministic=True
        )(y, y)
        y = nn.LayerNorm(dtype=self.dtype)(x)
        y = nn.gelu(nn.Dense(4 * width, dtype=self.dtype, kernel_init=xavier)(y))
        return x + nn.Dense(width, dtype=self.dtype, kernel_init=xavier)(y)


class Vit(nn.Module):
    """Vision transformer of 12 blocks of `width` (384: ViT-S) with heads of 64.

    Fixed 2-D sine-cosine positions and the mean over patches instead of a class token (Beyer et al.
    2022, "Better plain ViT baselines").
    """

    width: int = 384
    patch: int = 4
    depth: int = 12
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if x.shape[1] % self.patch or x.shape[2] % self.patch or self.width % 64:
            raise UserError(
                f"a ViT needs image sides that are multiples of its patch and a width that is a "
                f"multiple of 64, not {x.shape[1]}x{x.shape[2]}, {self.patch} and {self.width}"
            )
        side = (self.patch, self.patch)
        x = nn.Conv(self.width, side, side, padding="VALID", dtype=self.dtype, name="embed")(x)
        n, height, width, channels = x.shape
        x = x.reshape(n, height * width, channels)
        x = x + _sincos_positions(height, width, channels).astype(x.dtype)[None]
        for _ in range(self.depth):
            x = VitBlock(self.width // 64, self.dtype)(x)
        return nn.LayerNorm(dtype=self.dtype, name="norm")(x).mean(axis=1)


def _sincos_positions(height: int, width: int, channels: int) -> Array:
    """[height width, channels]: sines and cosines of row and column, a quarter each."""
    frequency = 10_000.0 ** -np.linspace(0, 1, channels // 4)
    rows, columns = np.mgrid[:height, :width].reshape(2, -1, 1)
    angles = [rows * frequency, columns * frequency]
    return jnp.asarray(np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1))


def _mlp(*, width: int, dtype: Any, **_: Any) -> nn.Module:
    return Mlp(width or 512, dtype)


def _convnet(*, width: int, dtype: Any, **_: Any) -> nn.Module:
    return ConvNet(width or 32, dtype)


def _resnet18(*, width: int, dtype: Any, stem: str, **_: Any) -> nn.Module:
    return ResNet((2, 2, 2, 2), BasicBlock, width or 64, stem, dtype)


def _resnet50(*, width: int, dtype: Any, stem: str, **_: Any) -> nn.Module:
    return ResNet((3, 4, 6, 3), Bottleneck, width or 64, stem, dtype)


def _vit_s(*, width: int, dtype: Any, patch: int, **_: Any) -> nn.Module:
    return Vit(width or 384, patch, dtype=dtype)


ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": _mlp,
    "convnet": _convnet,
    "resnet18": _resnet18,
    "resnet50": _resnet50,
    "vit_s": _vit_s,
}
