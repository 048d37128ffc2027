"""Window order and M-RoPE positions against transformers' own functions."""

import numpy as np
import pytest

from mmkp_jax.families.qwen2_5_vl.geometry import mrope_positions, patch_layout
from mmkp_jax.families.qwen2_5_vl.processor import Qwen2_5_VLProcessor
from tests.support.needs_torch import needs_torch
from tests.support.tiny import hf_model, tiny_config, write_model

GRIDS = [(4, 4), (2, 2), (2, 40), (40, 26), (24, 24), (10, 18), (6, 34)]


@pytest.mark.parametrize("grid", GRIDS)
def test_window_order_is_transformers(grid):
    torch = needs_torch()
    from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

    layout = patch_layout(grid, window_side=4)
    thw = torch.tensor([(1, *grid)])
    order, ends = get_vision_window_index(thw, spatial_merge_size=2, window_size=112, patch_size=14)
    source = (order[:, None] * 4 + torch.arange(4)).ravel()
    np.testing.assert_array_equal(layout.source_P, source)
    np.testing.assert_array_equal(layout.window_length_W.cumsum(), ends[1:])
    np.testing.assert_array_equal(layout.position_P2, get_vision_position_ids(thw, 2)[source])
    np.testing.assert_array_equal(layout.merged_M, torch.argsort(order))


def test_mrope_positions_are_transformers(tmp_path):
    torch = needs_torch()
    config = tiny_config()
    write_model(tmp_path, config)
    model = hf_model(tmp_path).model
    rng = np.random.default_rng(0)
    for grids in ([], [(4, 4)], [(40, 26), (4, 6)], [(2, 60), (24, 24), (4, 4)]):
        parts = [rng.integers(0, 200, 3)]
        for h, w in grids:
            parts += [np.full(h * w // 4, config.image_token_id), rng.integers(0, 200, rng.integers(1, 6))]
        tokens = np.concatenate(parts)
        ours, following = mrope_positions(tokens, grids, image_token=config.image_token_id)
        ids = torch.from_numpy(tokens)[None]
        theirs, delta = model.get_rope_index(
            ids,
            image_grid_thw=torch.tensor([(1, *grid) for grid in grids]) if grids else None,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == config.image_token_id).int(),
        )
        np.testing.assert_array_equal(ours, theirs[:, 0].T)
        assert following == len(tokens) + delta.item()


@pytest.mark.parametrize(
    "tokens, grids, message",
    [
        ([1, 9, 9, 2], [(4, 4)], "2 image tokens for images of 4"),
        ([1, 9, 9, 9, 9, 2], [], "4 image tokens for images of 0"),
        ([9, 9, 1, 9, 9], [(4, 4)], "text is inside"),
    ],
)
def test_image_tokens_that_are_not_the_images_are_refused(tokens, grids, message):
    with pytest.raises(ValueError, match=message):
        mrope_positions(np.array(tokens), grids, image_token=9)


@pytest.mark.parametrize("grid", [(3, 4), (4, 5), (0, 4)])
def test_a_grid_that_cannot_be_merged_is_refused(grid):
    with pytest.raises(ValueError, match="merged patches"):
        patch_layout(grid, window_side=4)


@pytest.mark.parametrize("limits", [(3136, 12_544), (12_544, 12_544), (200_704, 200_704), (3136, 451_584), (784, 784)])
def test_no_image_has_more_patches_than_attention_assumes(limits):
    processor = Qwen2_5_VLProcessor(0, 4, *limits)
    rng = np.random.default_rng(0)
    sides = [(100, 2000), (28, 2800), (90, 130), (300, 500), (480, 640), (1, 200), (15, 3000), (50, 9999)]
    sides += np.exp(rng.uniform(0, 8, (300, 2))).astype(int).tolist()
    for height, width in ((h, w) for h, w in sides if max(h, w) <= 200 * min(h, w)):
        assert processor.layout(height, width).slots[0] <= processor.longest_image, (height, width)
