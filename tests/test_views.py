import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pal_jax import views

KEY = jax.random.key(3)
# One entry a strength, each strong enough that a view of a random image must change.
ONE_AT_A_TIME = [
    {"crop": 0.6},
    {"rotate": 30.0},
    {"zoom": 0.5},
    {"shift": 2.0},
    {"flip": 1.0},
    {"brightness": 0.5},
    {"contrast": 0.5},
    {"saturation": 0.5},
    {"hue": 0.2},
    {"grayscale": 1.0},
    {"noise": 0.3},
]
ALL = functools.reduce(dict.__or__, ONE_AT_A_TIME)


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.integers(0, 256, (8, 6, 8, 3)).astype(np.uint8))


def make(images, count=2, **strengths: Any):
    """Views in units of pixels / 255."""
    c = images.shape[-1]
    plain = {"mean": np.zeros(c, np.float32), "std": np.ones(c, np.float32)}
    return views.image_views(KEY, images, count=count, **plain, **strengths)


def test_normalise_is_its_definition(rng):
    pixels = rng.integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    mean, std = rng.random(3).astype(np.float32), 0.1 + rng.random(3).astype(np.float32)
    expected = (pixels.astype(np.float64) / 255 - mean) / std
    actual = views.normalise(jnp.asarray(pixels), mean, std)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    features = rng.normal(size=(5, 3)).astype(np.float32)
    actual = views.normalise(jnp.asarray(features), mean, std)
    np.testing.assert_allclose(actual, (features - mean) / std, rtol=1e-5, atol=1e-6)


def test_without_strength_a_view_is_the_normalised_sample_in_view_major_order(images, rng):
    mean, std = rng.random(3).astype(np.float32), 0.1 + rng.random(3).astype(np.float32)
    actual = views.image_views(KEY, images, count=3, mean=mean, std=std)
    once = views.normalise(images, mean, std)
    np.testing.assert_array_equal(actual, np.concatenate([once, once, once]))
    features = jnp.asarray(rng.normal(size=(5, 3)).astype(np.float32))
    actual = views.feature_views(KEY, features, count=2, mean=mean, std=std)
    once = views.normalise(features, mean, std)
    np.testing.assert_array_equal(actual, np.concatenate([once, once]))


@pytest.mark.parametrize("strength", ONE_AT_A_TIME, ids=str)
def test_each_strength_changes_the_view_and_a_tiny_one_hardly(images, strength):
    plain = make(images)
    assert np.abs(make(images, **strength) - plain).max() > 0.02
    if not strength.keys() & {"flip", "grayscale"}:
        tiny: Any = dict.fromkeys(strength, 1e-5)
        np.testing.assert_allclose(make(images, **tiny), plain, atol=1e-3)


@pytest.mark.parametrize("strength", ONE_AT_A_TIME, ids=str)
def test_views_are_independent_and_a_function_of_the_key(strength):
    if strength.keys() & {"flip", "grayscale"}:
        strength = dict.fromkeys(strength, 0.5)
    one = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3)).astype(np.uint8)
    same = jnp.asarray(np.repeat(one, 16, axis=0))  # 16 equal samples, so 32 views of one image
    mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
    make = functools.partial(views.image_views, images=same, mean=mean, std=std, **strength)
    first = np.asarray(make(KEY, count=2))
    np.testing.assert_array_equal(first, make(KEY, count=2))
    assert not np.array_equal(first, make(jax.random.key(4), count=2))
    distinct = len(np.unique(first.round(5).reshape(32, -1), axis=0))
    assert distinct == (2 if strength.keys() & {"flip", "grayscale"} else 32)


def test_flip_mirrors_left_and_right_only(images):
    np.testing.assert_allclose(make(images, flip=1.0)[:8], images[:, :, ::-1] / 255, atol=1e-6)


def test_rotation_turns_by_up_to_the_angle_about_the_centre():
    """A bright spot right of the centre moves along a circle, up and down, and not too far."""
    spot = np.zeros((400, 41, 41, 1), np.uint8)
    spot[:, 20, 35] = 255
    turned = np.asarray(make(jnp.asarray(spot), count=1, rotate=20.0))[..., 0]
    mass = turned.sum(axis=(1, 2))
    rows, columns = np.mgrid[:41, :41] - 20
    y, x = (turned * rows).sum(axis=(1, 2)) / mass, (turned * columns).sum(axis=(1, 2)) / mass
    np.testing.assert_allclose(np.hypot(x, y), 15, atol=0.3)
    angles = np.degrees(np.arctan2(y, x))
    assert -21 < angles.min() < -17
    assert 17 < angles.max() < 21
    assert abs(angles.mean()) < 3


def test_shift_moves_by_whole_pixels_worth_and_brings_in_black():
    """Bilinear resampling of a ramp is exact: a shifted ramp tells how far it was shifted."""
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8)[None, None, :, None], (200, 24, 1, 1))
    moved = np.asarray(make(jnp.asarray(ramp), count=1, shift=3.0))[..., 0] * 25.5
    inner = moved[:, 6:-6, 6:-6] - np.arange(6, 18)
    steps = inner.mean(axis=(1, 2))
    np.testing.assert_allclose(inner, steps[:, None, None] + np.zeros_like(inner), atol=1e-3)
    assert -3 <= steps.min() < -2.5
    assert 2.5 < steps.max() <= 3
    edge = moved[steps > 1.01]
    np.testing.assert_allclose(edge[:, 6:-6, -1], 0, atol=1e-5)  # from beyond the image


def test_zoom_changes_the_size_both_ways_about_the_centre():
    square = np.zeros((300, 41, 41, 1), np.uint8)
    square[:, 10:31, 10:31] = 255
    areas = np.asarray(make(jnp.asarray(square), count=1, zoom=0.25)).sum(axis=(1, 2, 3)) / 21**2
    assert 1.25**-2 - 0.02 < areas.min() < 0.70
    assert 1.45 < areas.max() < 1.25**2 + 0.02


def test_a_crop_stays_inside_the_image_and_keeps_the_promised_area():
    """In a picture of coordinates, each pixel of a crop says where it came from."""
    height, width = 20, 30
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([rows * 8, columns * 8, np.full_like(rows, 255)], axis=-1).astype(np.uint8)
    many = jnp.asarray(np.repeat(picture[None], 500, axis=0))
    cropped = np.asarray(make(many, count=1, crop=0.75)) * 255
    np.testing.assert_allclose(cropped[..., 2], 255, atol=1e-3)  # never black: nothing outside
    tall = (cropped[:, -1, 0, 0] - cropped[:, 0, 0, 0]) / 8 / (height - 1)  # share of the height
    wide = (cropped[:, 0, -1, 1] - cropped[:, 0, 0, 1]) / 8 / (width - 1)
    area, ratio = tall * wide, wide / tall
    assert 0.24 < area.min() < 0.30
    assert 0.90 < area.max() < 1.001
    assert 0.74 < ratio.min() < 0.80
    assert 1.25 < ratio.max() < 1.35
    top = cropped[tall < 0.6][:, 0, 0, 0] / 8
    assert top.min() < 1  # crops lie anywhere, the corners included
    assert top.max() > height * 0.4


def test_colour_keeps_what_it_must(images):
    grey = np.asarray(images / 255) @ np.array(views.LUMA)
    lost = np.asarray(make(images, grayscale=1.0))
    np.testing.assert_allclose(
        lost, np.repeat(np.tile(grey, (2, 1, 1))[..., None], 3, -1), atol=1e-5
    )
    grey_images = jnp.repeat(images[..., :1], 3, axis=-1)
    vivid: list[Any] = [{"saturation": 0.9}, {"hue": 0.5}]
    for strength in vivid:  # grey has no colour to change
        np.testing.assert_allclose(
            make(grey_images, **strength), np.tile(grey_images / 255, (2, 1, 1, 1)), atol=1e-5
        )
    soft = jnp.clip(images, 100, 155)  # far from the cut at 0 and 1
    saturated = np.asarray(make(soft, saturation=0.5)) @ np.array(views.LUMA)
    expected = np.tile(np.asarray(soft / 255) @ np.array(views.LUMA), (2, 1, 1))
    np.testing.assert_allclose(saturated, expected, atol=1e-5)
    contrast = np.asarray(make(soft, contrast=0.5)) @ np.array(views.LUMA)
    np.testing.assert_allclose(contrast.mean(axis=(1, 2)), expected.mean(axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(  # a turn of hue keeps the sum of the channels
        np.asarray(make(soft, hue=0.05)).sum(-1),
        np.tile(soft / 255, (2, 1, 1, 1)).sum(-1),
        atol=1e-4,
    )


def test_a_third_of_a_turn_of_hue_makes_red_green_and_blue_change_places():
    red = jnp.asarray([[[1.0, 0.0, 0.0]]])[None]
    turned = views._mix_channels(red, jnp.asarray([[[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]]))
    np.testing.assert_allclose(turned[0, 0, 0], [0, 1, 0], atol=1e-6)


def test_brightness_scales_and_pixels_stay_between_0_and_1(images):
    soft = jnp.clip(images, 100, 155)
    ratios = np.asarray(make(soft, brightness=0.3)) / np.tile(soft / 255, (2, 1, 1, 1))
    factors = ratios[:, 0, 0, 0]
    np.testing.assert_allclose(ratios, factors[:, None, None, None] + 0 * ratios, atol=1e-4)
    assert 0.7 <= factors.min() < factors.max() <= 1.3
    strong: Any = ALL | {"noise": 0.0, "brightness": 3.0}
    everything = np.asarray(make(images, **strong))
    assert everything.min() == 0
    assert everything.max() == 1


def test_noise_is_gaussian_in_units_of_the_normalised_values():
    flat = jnp.full((64, 16, 16, 1), 128, jnp.uint8)
    noisy = views.image_views(
        KEY,
        flat,
        count=1,
        mean=np.array([0.5], np.float32),
        std=np.array([0.01], np.float32),
        noise=0.2,
    )
    assert np.std(noisy) == pytest.approx(0.2, rel=0.02)


def test_feature_views_add_noise_and_drop_to_the_mean(rng):
    features = jnp.asarray(rng.normal(5, 2, (400, 30)).astype(np.float32))
    mean, std = np.full(30, 5, np.float32), np.full(30, 2, np.float32)
    make = functools.partial(views.feature_views, KEY, features, count=2, mean=mean, std=std)
    once = np.tile(views.normalise(features, mean, std), (2, 1))
    noise = np.asarray(make(noise=0.3)) - once
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    dropped = np.asarray(make(dropout=0.25))
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_array_equal(dropped[dropped != 0], once[dropped != 0])
    assert not np.array_equal(dropped[:400], dropped[400:])
    assert (np.asarray(make(dropout=0.25, noise=0.3)) == 0).mean() == pytest.approx(0.25, abs=0.01)


def test_eight_devices_make_the_views_of_one(images):
    """Random numbers must not depend on where they are drawn, or a resumed run would change."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    step = jax.jit(functools.partial(make, **ALL))
    spread = jax.device_put(images, NamedSharding(mesh, P("data")))
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_allclose(step(spread), step(images), atol=1e-6)


def test_other_keys_and_images_do_not_compile_again(images):
    traces = []

    @jax.jit
    def step(key, x):
        traces.append(1)
        mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
        return views.image_views(key, x, count=2, mean=mean, std=std, **ALL)

    for seed in range(3):
        step(jax.random.key(seed), images)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        ({"rotate": -1.0}, "rotate=-1.0"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"crop": 1.0}, "below 1"),
        ({"flip": 1.5}, "probability"),
        ({"count": 0}, "at least 1"),
    ],
    ids=str,
)
def test_impossible_strengths_are_refused(images, strength, message):
    with pytest.raises(ValueError, match=message):
        make(images, **strength)


@pytest.mark.parametrize("name", ["saturation", "hue", "grayscale"])
def test_colour_is_refused_for_images_without_colour(images, name):
    strength: Any = {name: 0.1}
    with pytest.raises(ValueError, match=f"{name}=0.1 needs RGB"):
        make(images[..., :1], **strength)
