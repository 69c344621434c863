"""The scenes: the same from the same seed, exact labels, any size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.demo import scenes


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**40), height=st.integers(80, 400), width=st.integers(80, 400))
def test_any_size_and_only_known_labels(seed, height, width):
    scene = scenes.draw(seed, (height, width))
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8
    assert scene.labels.shape == (height, width)
    assert scene.labels.max() <= len(scenes.KINDS)
    assert set(np.flatnonzero(scene.kinds) + 1) == set(np.unique(scene.labels)) - {0}


def test_a_seed_is_a_scene():
    one, two = scenes.draw(7, (160, 200)), scenes.draw(7, (160, 200))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.labels, two.labels)
    assert not np.array_equal(one.image, scenes.draw(8, (160, 200)).image)


def test_objects_are_few_and_small_and_of_all_kinds():
    drawn = [scenes.draw(seed, (1024, 1024)) for seed in range(6)]
    share = np.mean([(s.labels > 0).mean() for s in drawn])
    # 9 or 10 objects with areas of a few thousand pixels in a million.
    assert 0.005 < share < 0.05
    kinds = np.any([scenes.draw(seed, (512, 512), 6).kinds for seed in range(20)], axis=0)
    assert kinds.all()


@pytest.mark.parametrize(("objects", "filled"), [(40, 0.10), (100, 0.24)])
def test_fuller_scenes_are_as_full_as_the_results_say(objects, filled):
    drawn = [scenes.draw(seed, (1024, 1024), objects=objects) for seed in range(4)]
    share = np.mean([(s.labels > 0).mean() for s in drawn])
    # Areas of objects differ by a factor of five, and later ones cover earlier ones.
    assert share == pytest.approx(filled, rel=0.25)


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_every_kind_has_its_own_shape(kind):
    y, x = np.meshgrid(np.linspace(-1.2, 1.2, 241), np.linspace(-1.2, 1.2, 241), indexing="ij")
    inside = scenes._shape(kind, y, x)[0] <= 0
    area = inside.mean() * 2.4**2
    assert 0.8 < area < 3.2  # of a disc of radius 1 (3.14) at most, and no sliver
    others = [k for k in scenes.KINDS if k != kind]
    different = [(inside ^ (scenes._shape(k, y, x)[0] <= 0)).mean() for k in others]
    same_outline = {"disc": "bars", "bars": "disc", "square": "checker", "checker": "square"}
    for other, share in zip(others, different, strict=True):
        if same_outline.get(kind) == other:
            assert share == 0
            assert scenes._shape(kind, y, x)[1].any() != scenes._shape(other, y, x)[1].any()
        else:
            assert share > 0.01


def test_a_set_draws_its_own_seeds():
    held = scenes.SceneSet(3, (96, 96), first_seed=100)
    assert len(held) == 3
    assert np.array_equal(held[2].image, scenes.draw(102, (96, 96)).image)
    with pytest.raises(IndexError):
        held[3]
