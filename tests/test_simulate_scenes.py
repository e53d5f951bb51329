"""The procedural scenes: deterministic, within their ranges, never shared between training and studies."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from braindecode_suite.datasets.simulate_scenes import (
    CATEGORIES,
    COLOURS,
    GENERATOR_SEEDS,
    MAIN_SIZE,
    MAX_ANGLE,
    OTHER_SIZE,
    PLACES,
    STUDY_SEEDS_START,
    VALIDATION_SEEDS,
    Scene,
    SceneObject,
    captions,
    draw_matched,
    draw_scene,
    main_object,
    object_masks,
    position_words,
    render,
    scene_from_params,
    scene_params,
    without_objects,
)

SEEDS = range(STUDY_SEEDS_START, STUDY_SEEDS_START + 150)


def test_there_is_enough_to_see() -> None:
    assert len(CATEGORIES) >= 12
    assert len(COLOURS) >= 8
    assert len(PLACES) >= 12
    assert {"face", "person", "house", "word"} <= set(CATEGORIES)


def test_the_colours_are_far_apart() -> None:
    rgb = np.array(list(COLOURS.values()), float)
    distance = np.linalg.norm(rgb[:, None] - rgb[None], axis=2) + 1e9 * np.eye(len(rgb))
    assert distance.min() > 90


def test_the_same_seed_draws_the_same_scene_and_the_same_pixels() -> None:
    for seed in SEEDS[:20]:
        assert draw_scene(seed) == draw_scene(seed)
        np.testing.assert_array_equal(render(draw_scene(seed)), render(draw_scene(seed)))


def test_every_drawn_scene_is_within_its_ranges() -> None:
    for seed in SEEDS:
        scene = draw_scene(seed)
        assert scene.place in PLACES
        assert 1 <= len(scene.objects) <= 3
        for k, o in enumerate(scene.objects):
            low, high = MAIN_SIZE if k == 0 else OTHER_SIZE
            assert low <= o.size <= high
            assert o.category in CATEGORIES
            assert o.colour in COLOURS
            assert abs(o.pose) <= MAX_ANGLE
            assert o.size / 2 - 1e-3 <= o.x <= 1 - o.size / 2 + 1e-3
            assert o.size / 2 - 1e-3 <= o.y <= 1 - o.size / 2 + 1e-3


def test_everything_that_can_be_drawn_occurs() -> None:
    drawn = [draw_scene(seed) for seed in SEEDS]
    assert {s.objects[0].category for s in drawn} == set(CATEGORIES)
    assert {s.objects[0].colour for s in drawn} == set(COLOURS)
    assert {s.place for s in drawn} == set(PLACES)
    assert {len(s.objects) for s in drawn} == {1, 2, 3}


def test_wishes_are_granted_and_leave_the_rest_as_it_was() -> None:
    free = draw_scene(STUDY_SEEDS_START)
    asked = draw_scene(STUDY_SEEDS_START, category="cup", colour="red", place="desert")
    assert (asked.objects[0].category, asked.objects[0].colour, asked.place) == ("cup", "red", "desert")
    assert asked.objects[0].x == free.objects[0].x
    assert len(draw_scene(STUDY_SEEDS_START, n_objects=3).objects) == 3


@pytest.mark.parametrize("size", [64, 100, 425])
def test_a_picture_has_the_size_asked_for(size: int) -> None:
    picture = render(draw_scene(STUDY_SEEDS_START), size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8


def test_a_large_picture_shows_the_same_as_a_small_one() -> None:
    scene = draw_scene(STUDY_SEEDS_START + 3)
    large = render(scene, 256).reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(large - render(scene, 64)).mean() < 4


def test_masks_are_where_the_objects_change_the_picture() -> None:
    for seed in SEEDS[:30]:
        scene = draw_scene(seed)
        masks = object_masks(scene)
        assert masks.shape == (len(scene.objects), 64, 64)
        assert masks.sum(0).max() <= 1
        changed = (render(scene).astype(int) != render(without_objects(scene)).astype(int)).any(2)
        assert changed[masks.any(0)].mean() > 0.99
        grown = np.zeros_like(changed)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                grown |= np.roll(masks.any(0), (dy, dx), (0, 1))
        assert grown[changed].mean() > 0.97


def test_the_main_object_is_the_one_with_the_most_visible_pixels() -> None:
    small = SceneObject("house", "red", 0.2, 0.2, 0.2, 0.0)
    large = SceneObject("face", "blue", 0.6, 0.6, 0.5, 0.0)
    assert main_object(Scene("beach", (small, large), 1)) == 1
    assert main_object(Scene("beach", (large, small), 1)) == 0
    hidden = replace(large, category="star", size=0.2)
    assert main_object(Scene("beach", (hidden, large, small), 1)) == 1
    scene = draw_scene(STUDY_SEEDS_START + 8)
    assert main_object(scene) == int(np.argmax([m.sum() for m in object_masks(scene)]))


def test_the_main_object_lies_in_the_middle_of_its_mask() -> None:
    for seed in SEEDS[:40]:
        scene = draw_scene(seed, category="face", n_objects=1)
        rows, columns = np.nonzero(object_masks(scene)[0])
        centre = (np.array([columns.mean(), rows.mean()]) + 0.5) / 64
        assert np.abs(centre - [scene.objects[0].x, scene.objects[0].y]).max() < 0.02


def test_the_body_is_painted_in_the_objects_colour() -> None:
    for k, (name, rgb) in enumerate(COLOURS.items()):
        scene = draw_scene(STUDY_SEEDS_START + k, category="star", colour=name, n_objects=1)
        pixels = render(scene)[object_masks(scene)[0]]
        np.testing.assert_array_equal(np.median(pixels, axis=0), rgb)


def test_no_colour_is_that_of_any_place() -> None:
    for place in PLACES:
        ground = render(without_objects(draw_scene(5, place=place))).reshape(-1, 3).astype(float)
        for rgb in COLOURS.values():
            assert (np.linalg.norm(ground - rgb, axis=1) < 40).mean() < 0.01


def test_captions_name_what_is_there() -> None:
    for seed in SEEDS[:40]:
        scene = draw_scene(seed)
        main = scene.objects[main_object(scene)]
        texts = captions(scene, 5, seed=1)
        assert texts == captions(scene, 5, seed=1)
        assert len(texts) == 5
        for text in texts:
            assert f"{main.colour} {main.category}" in text
            assert position_words(main.x, main.y) in text
            assert all(f"{o.colour} {o.category}" in text for o in scene.objects)
    assert len(set(captions(draw_scene(STUDY_SEEDS_START), 20, seed=0))) > 3


def test_a_matched_scene_shares_main_category_and_place_only() -> None:
    scene = draw_scene(STUDY_SEEDS_START + 1)
    matched = [draw_matched(scene, STUDY_SEEDS_START + 1000 + k) for k in range(20)]
    category = scene.objects[main_object(scene)].category
    assert {m.place for m in matched} == {scene.place}
    assert {m.objects[main_object(m)].category for m in matched} == {category}
    assert len({m.objects[0].colour for m in matched}) > 3
    assert len({m.objects[0].x for m in matched}) == 20


def test_a_matched_scene_needs_another_seed() -> None:
    scene = draw_scene(STUDY_SEEDS_START)
    with pytest.raises(ValueError, match="`seed` must differ from the scene's own"):
        draw_matched(scene, scene.seed)


def test_a_scene_survives_plain_values() -> None:
    for seed in SEEDS[:10]:
        assert scene_from_params(**scene_params(draw_scene(seed))) == draw_scene(seed)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`category` must be one of .*; got 'unicorn'"):
        draw_scene(1, category="unicorn")
    with pytest.raises(ValueError, match=r"`place` must be one of .*; got 'moon'"):
        scene_from_params("moon", [], 0)
    with pytest.raises(ValueError, match="`n_objects` must be 1, 2 or 3; got 4"):
        draw_scene(1, n_objects=4)


def test_no_study_sees_a_scene_of_the_image_models() -> None:
    assert GENERATOR_SEEDS.stop <= VALIDATION_SEEDS.start
    assert VALIDATION_SEEDS.stop <= STUDY_SEEDS_START

    def hashes(seeds: range) -> set[str]:
        return {hashlib.sha256(render(draw_scene(seed)).tobytes()).hexdigest() for seed in seeds}

    parts = [
        GENERATOR_SEEDS[:1500],
        VALIDATION_SEEDS[:700],
        range(STUDY_SEEDS_START, STUDY_SEEDS_START + 1500),
    ]
    drawn = [hashes(part) for part in parts]
    assert [len(d) for d in drawn] == [len(p) for p in parts]
    assert not drawn[0] & drawn[1]
    assert not drawn[0] & drawn[2]
    assert not drawn[1] & drawn[2]
