"""SAM 2 prompted with points: the points, the figures by hand, and a small random Sam2Model."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from task_data import salient_folder, save

from sparsight.errors import ImagesError, LabelsError, UnsupportedModelError
from sparsight.tasks import prompted
from sparsight.tasks.base import Arms, Request

pytest.importorskip("transformers")
SIDE = 128


def arms(dense, sparse):
    return Arms(dense, sparse, (dense, sparse))


@pytest.fixture(scope="module")
def sam2():
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

    hiera = Sam2HieraDetConfig(
        hidden_size=16, num_attention_heads=1, blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128], num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 4, 4, 2], global_attention_blocks=[3], image_size=[SIDE, SIDE],
    )  # fmt: skip
    sizes = [[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2]
    vision = Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=[128, 64, 32, 16], fpn_hidden_size=32,
        backbone_feature_sizes=sizes,
    )  # fmt: skip
    prompt = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16}
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
    torch.manual_seed(0)
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    return Sam2Model(config).eval()


class Square(torch.nn.Module):
    """Stands in for Sam2Model: its mask is the square of `side` pixels around the mean of the points."""

    def __init__(self, side):
        super().__init__()
        self.side, self.weight = side, torch.nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values, input_points, input_labels, multimask_output):
        assert (input_labels == 1).all()
        assert not multimask_output
        height, width = pixel_values.shape[2:]
        x, y = (input_points[0].mean(1) + 0.5).unbind(1)  # as the prompt encoder reads them
        row, column = torch.arange(height) + 0.5, torch.arange(width) + 0.5
        near = ((row - y[:, None]).abs() <= self.side / 2)[:, :, None] & (
            (column - x[:, None]).abs() <= self.side / 2
        )[:, None]
        return SimpleNamespace(pred_masks=torch.where(near, 1.0, -1.0)[None, :, None])


@pytest.fixture
def squares(tmp_path, monkeypatch):
    """One picture with two objects of one pixel each; the check of the model is lifted."""
    monkeypatch.setattr(prompted, "_check", lambda model, resolution: None)
    labels = np.zeros((32, 64), np.uint8)
    labels[8, 10], labels[20, 50] = 1, 2
    palette = Image.fromarray(labels, "P")
    palette.putpalette(list(range(9)))
    save(np.zeros((32, 64, 3)), tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    palette.save(tmp_path / "masks" / "a.png")
    return tmp_path


def test_iou_of_each_object_by_hand(squares):
    found = prompted.run(arms(Square(1), Square(3)), Request(squares, (32, 64)))
    # Every point is the object's one pixel: a square of 1 is right, one of 3 x 3 has IoU 1 / 9.
    row = found.scores[0]
    assert row["dense"] == pytest.approx(1)
    assert row["sparse"] == pytest.approx(1 / 9)
    assert found.recipe["objects"] == 2
    assert (row["low"], row["high"]) == (None, None)


def test_objects_count_alike_whatever_picture_they_are_in(squares):
    mask = np.zeros((32, 64), np.uint8)
    mask[4:7, 4:7] = 255
    save(np.zeros((32, 64, 3)), squares / "images" / "b.png")
    save(mask, squares / "masks" / "b.png")
    found = prompted.run(arms(Square(1), Square(1)), Request(squares, (32, 64)))
    # The block of nine has at most one of its pixels in a square of 1 around the mean of five points.
    assert 2 / 3 <= found.scores[0]["dense"] <= (2 + 1 / 9) / 3 + 1e-6
    assert found.recipe["objects"] == 3


def test_points_are_inside_seeded_and_spread():
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    points = prompted.draw_points(mask, (0, 1, 2))
    assert points.shape == (5, 2)
    assert ((points[:, 0] > 0.5) & (points[:, 0] < 50 / 60)).all()
    assert ((points[:, 1] > 0.25) & (points[:, 1] < 0.5)).all()
    assert (points == prompted.draw_points(mask, (0, 1, 2))).all()
    assert (points != prompted.draw_points(mask, (0, 1, 3))).any()


def test_a_small_sam2_runs_and_equals_itself(sam2, tmp_path):
    folder = salient_folder(tmp_path, 3)
    with torch.no_grad():
        same = prompted.run(arms(sam2, copy.deepcopy(sam2)), Request(folder, (SIDE, SIDE)))
        other = copy.deepcopy(sam2)
        for parameter in other.vision_encoder.parameters():
            parameter.add_(
                0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
        moved = prompted.run(arms(sam2, other), Request(folder, (SIDE, SIDE)))
    row = same.scores[0]
    assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)
    assert same.images == 3
    assert 0 <= row["dense"] <= 1
    assert moved.scores[0]["dense"] == row["dense"]
    assert moved.scores[0]["difference"] != 0


def test_empty_masks_are_skipped_and_counted(sam2, tmp_path):
    folder = salient_folder(tmp_path, 3)
    save(np.zeros((64, 96)), folder / "gt" / "1.png")
    with torch.no_grad():
        found = prompted.run(arms(sam2, sam2), Request(folder, (SIDE, SIDE)))
    assert found.images == 2
    assert found.skipped == [f"{folder / 'gt' / '1.png'} is an empty mask"]
    for number in (0, 2):
        save(np.zeros((64, 96)), folder / "gt" / f"{number}.png")
    with pytest.raises(LabelsError, match="every mask"), torch.no_grad():
        prompted.run(arms(sam2, sam2), Request(folder, (SIDE, SIDE)))


def test_what_takes_no_prompts_is_refused(sam2, tmp_path):
    plain = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedModelError, match="Linear takes no prompts"):
        prompted.run(arms(plain, plain), Request(tmp_path, (SIDE, SIDE)))
    with pytest.raises(ImagesError, match="configured for pictures of 128x128, not of 64x96"):
        prompted.run(arms(sam2, sam2), Request(tmp_path, (64, 96)))
