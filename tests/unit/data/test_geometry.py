"""How images are cut: worked examples, and what holds for images of any size."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.images.geometry import CropRules, geometries, random_draws, size_metric
from helpers.data.types import Box, Geometry, Size

BASE = CropRules(
    resolution=1.0,
    resolution_type="area",
    alignment=64,
    rounding=2,
    crop=False,
    crop_aspect="square",
    crop_style="center",
)
SQUARE = dataclasses.replace(BASE, crop=True)


def cut(width: int, height: int, rules: CropRules, draws: tuple[float, float, float] = (0.5, 0.5, 0.5)) -> Geometry:
    row = geometries(np.array([[width, height]]), rules=rules, draws=np.array([draws]))[0].tolist()
    return Geometry(resize=Size(*row[:2]), crop=Box(*row[2:]))


@pytest.mark.parametrize(
    ("size", "changes", "target"),
    [
        ((1000, 1000), {}, (1024, 1024)),
        ((3000, 2000), {}, (1216, 832)),
        ((2000, 3000), {}, (832, 1216)),
        ((3000, 2000), {"resolution": 0.5}, (896, 576)),
        ((3000, 2000), {"resolution": 0.5, "alignment": 16}, (864, 576)),
        ((3000, 2000), {"resolution_type": "pixel", "resolution": 512}, (768, 512)),
        ((2000, 3000), {"resolution_type": "pixel", "resolution": 512}, (512, 768)),
        ((3000, 2000), {"resolution_type": "pixel_area", "resolution": 1024}, (1280, 832)),
        ((1003, 1000), {"rounding": 1, "alignment": 16}, (992, 992)),
        ((50_000, 50), {}, (15_616, 64)),
        ((1, 1), {}, (1024, 1024)),
    ],
)
def test_without_crop_the_shape_is_kept(size: tuple[int, int], changes: dict, target: tuple[int, int]) -> None:
    assert cut(*size, dataclasses.replace(BASE, **changes)).target == Size(*target)


@pytest.mark.parametrize(
    ("kind", "resolution", "edge"),
    [("area", 1.0, 1024), ("area", 0.5, 704), ("area", 0.25, 512), ("pixel", 500, 512), ("pixel_area", 1000, 1024)],
)
def test_a_square_has_the_edge_the_reference_states(kind: str, resolution: float, edge: int) -> None:
    rules = dataclasses.replace(SQUARE, resolution_type=kind, resolution=resolution)
    assert cut(3000, 2000, rules).target == Size(edge, edge)


def test_a_crop_takes_as_much_of_the_image_as_it_can() -> None:
    assert cut(3000, 2000, SQUARE) == Geometry(resize=Size(1536, 1024), crop=Box(256, 0, 1280, 1024))
    assert cut(300, 200, SQUARE) == Geometry(resize=Size(1536, 1024), crop=Box(256, 0, 1280, 1024))


def test_preserve_crops_to_the_shape_of_the_image() -> None:
    rules = dataclasses.replace(SQUARE, crop_aspect="preserve")
    assert cut(3000, 2000, rules) == cut(3000, 2000, BASE)


def test_closest_is_the_nearest_ratio_and_random_one_of_them() -> None:
    closest = dataclasses.replace(SQUARE, crop_aspect="closest", aspect_buckets=(0.5, 1.0, 2.0))
    assert [cut(*size, closest).target for size in ((300, 200), (270, 200), (100, 900))] == [
        Size(1408, 704),
        Size(1024, 1024),
        Size(704, 1408),
    ]
    random = dataclasses.replace(closest, crop_aspect="random")
    targets = [cut(300, 200, random, (draw, 0.5, 0.5)).target for draw in (0.0, 0.4, 0.999)]
    assert targets == [Size(704, 1408), Size(1024, 1024), Size(1408, 704)]


def test_styles_place_the_crop() -> None:
    corner = dataclasses.replace(SQUARE, crop_style="corner")
    assert cut(3000, 2000, corner).crop == Box(512, 0, 1536, 1024)
    random = dataclasses.replace(SQUARE, crop_style="random")
    assert [cut(3000, 2000, random, (0.5, x, 0.5)).crop.left for x in (0.0, 0.5, 1 - 2**-53)] == [0, 256, 512]


def test_only_images_over_the_maximum_are_shrunk_before_cropping() -> None:
    rules = dataclasses.replace(SQUARE, resolution=0.25, maximum=4.0, downsample=1.0)
    # 6 megapixels: shrunk to 1, then cropped. 1.5 megapixels: cropped as it is. 0.06: enlarged, to cover the crop.
    assert cut(3000, 2000, rules) == Geometry(resize=Size(1225, 816), crop=Box(356, 152, 868, 664))
    assert cut(1500, 1000, rules) == Geometry(resize=Size(1500, 1000), crop=Box(494, 244, 1006, 756))
    assert cut(300, 200, rules) == Geometry(resize=Size(768, 512), crop=Box(128, 0, 640, 512))
    # Exactly the maximum is not larger than it.
    assert cut(2000, 2000, rules).resize == Size(2000, 2000)
    assert cut(2001, 2000, rules).resize != Size(2001, 2000)


def test_shrinking_never_enlarges() -> None:
    rules = dataclasses.replace(SQUARE, resolution=0.25, maximum=1.0, downsample=4.0)
    assert cut(1500, 1000, rules).resize == Size(1500, 1000)


def test_shrinking_is_in_the_unit_of_the_resolution() -> None:
    rules = dataclasses.replace(SQUARE, resolution_type="pixel", resolution=512, maximum=1500, downsample=1000)
    assert cut(3000, 2000, rules).resize == Size(1500, 1000)
    rules = dataclasses.replace(rules, resolution_type="pixel_area")
    assert cut(3000, 2000, rules).resize == Size(1225, 816)


def test_the_quickstart_covers_its_square() -> None:
    rules = dataclasses.replace(SQUARE, maximum=1.0, downsample=1.0)
    assert cut(3000, 2000, rules) == Geometry(resize=Size(1536, 1024), crop=Box(256, 0, 1280, 1024))


def test_sizes_are_measured_in_each_unit() -> None:
    sizes = np.array([[2000, 500]])
    assert [size_metric(sizes, kind)[0] for kind in ("area", "pixel", "pixel_area")] == [1.0, 500.0, 1000.0]


def test_chance_depends_on_seed_data_set_and_path_only() -> None:
    paths = ["a.png", "b/a.png", "caf\udce9.png"]
    draws = random_draws(paths, seed=1, dataset_id="x")
    assert draws.shape == (3, 3)
    assert ((draws >= 0) & (draws < 1)).all()
    assert len(np.unique(draws)) == 9
    assert (random_draws(paths[::-1], seed=1, dataset_id="x")[::-1] == draws).all()
    assert not (random_draws(paths, seed=2, dataset_id="x") == draws).any()
    assert not (random_draws(paths, seed=1, dataset_id="y") == draws).any()


edges = st.one_of(st.integers(1, 8000), st.sampled_from([1, 2, 63, 64, 65, 65_535]))
any_rules = st.builds(
    CropRules,
    resolution=st.floats(0.02, 4.0),
    resolution_type=st.just("area"),
    alignment=st.sampled_from([16, 32, 64]),
    rounding=st.integers(1, 4),
    crop=st.booleans(),
    crop_aspect=st.sampled_from(["square", "preserve", "random", "closest"]),
    crop_style=st.sampled_from(["center", "random", "corner"]),
    aspect_buckets=st.lists(st.floats(0.3, 3.0), min_size=1, max_size=4).map(tuple),
).flatmap(
    lambda rules: st.one_of(
        st.just(rules),
        *(
            st.just(dataclasses.replace(rules, resolution_type=kind, resolution=1000 * math.sqrt(rules.resolution)))
            for kind in ("pixel", "pixel_area")
        ),
        st.just(dataclasses.replace(rules, maximum=2.0, downsample=1.0)),
    )
)
any_draws = st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3)


@settings(max_examples=120, deadline=None)
@given(width=edges, height=edges, rules=any_rules, draws=any_draws)
def test_every_cut_is_possible_and_stretches_nothing(
    width: int, height: int, rules: CropRules, draws: tuple[float, float, float]
) -> None:
    made = cut(width, height, rules, draws)
    left, top, right, bottom = made.crop
    assert 0 <= left < right <= made.resize.width
    assert 0 <= top < bottom <= made.resize.height
    assert made.target.width % rules.alignment == 0
    assert made.target.height % rules.alignment == 0
    # One scale fits both edges, but for rounding to whole pixels.
    least = max((made.resize.width - 0.5) / width, (made.resize.height - 0.5) / height)
    most = min((made.resize.width + 0.5) / width, (made.resize.height + 0.5) / height)
    assert least <= most * (1 + 1e-12)
    # What is not cropped on purpose is kept: one edge is used whole, unless the image is taken at its own scale.
    if rules.maximum == math.inf:
        assert made.target.width == made.resize.width or made.target.height == made.resize.height


@settings(max_examples=60, deadline=None)
@given(width=st.integers(64, 8000), height=st.integers(64, 8000), rules=any_rules)
def test_without_crop_shape_and_area_are_near(width: int, height: int, rules: CropRules) -> None:
    rules = dataclasses.replace(rules, crop=False, resolution_type="area")
    target = cut(width, height, rules).target
    aspect = max(width, height) / min(width, height)
    if aspect > rules.resolution * 1e6 / (4 * rules.alignment) ** 2:
        return  # a strip hardly wider than the grid
    half = rules.alignment / 2
    ideal = np.sqrt(rules.resolution * 1e6 * np.array([aspect, 1 / aspect]))
    slack = half + ideal * 0.5 * 10.0**-rules.rounding + 1e-6
    assert (np.abs(np.array([max(target), min(target)]) - ideal) <= slack).all()


@settings(max_examples=40, deadline=None)
@given(width=edges, height=edges, rules=any_rules)
def test_a_transposed_image_has_the_transposed_size(width: int, height: int, rules: CropRules) -> None:
    rules = dataclasses.replace(rules, crop=False)
    target = cut(width, height, rules).target
    assert cut(height, width, rules).target == Size(target.height, target.width)


def test_a_column_is_cut_like_its_images() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5000, (200, 2))
    rules = dataclasses.replace(SQUARE, crop_style="random", crop_aspect="random", aspect_buckets=(0.7, 1.0, 1.4))
    draws = rng.random((200, 3))
    together = geometries(sizes, rules=rules, draws=draws)
    assert together.dtype == np.int32
    for row in range(200):
        assert (geometries(sizes[row : row + 1], rules=rules, draws=draws[row : row + 1])[0] == together[row]).all()
