"""The plain way, without forest: one example, one target, one causal sequence, full logits, log_softmax.

Shares with the code under test the model's layers and the positions of a plain sequence (which test_geometry.py holds
against transformers), and nothing of its masks, branches, label slots or head.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmkp_jax.data.forest import Forest, Tree
from mmkp_jax.families.qwen2_5_vl.geometry import mrope_positions
from mmkp_jax.families.qwen2_5_vl.model import mrope_rotation
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.models.model import Attend
from mmkp_jax.ops.attention import dense_attention
from tests.support.trees import forest_of


def alone_loss(definition: Definition, params: Params, tree: Tree, target: np.ndarray) -> jax.Array:
    """The mean NLL of `target`'s tokens after the prompt of `tree`; float32 scalar."""
    if len(target) == 0:
        return jnp.float32(0)
    tokens, config = np.concatenate([tree.prompt, target]), definition.config
    grids = [layout.shape for layout in tree.layouts]
    position_T3, _ = mrope_positions(tokens, grids, image_token=config.image_token_id)
    model = definition.bind(params)
    embedded = model.decoder.embedding[...][tokens]
    if grids:
        image = forest_of([[tree]], config)
        features = model.visual.merger(model.visual(image.images, jnp.float32))[0]
        at = np.flatnonzero(tokens == config.image_token_id)
        embedded = embedded.at[at].set(features[_merged(image)])
    causal = np.tril(np.ones((len(tokens), len(tokens)), bool))[None]
    attend = Attend(lambda q, k, v: dense_attention(q, k, v, causal))
    hidden = model.decoder(embedded[None], mrope_rotation(position_T3[None], config), attend)[0]
    log_p = jax.nn.log_softmax(hidden @ model.head.T, axis=-1)
    first = len(tree.prompt)
    return -log_p[np.arange(first - 1, len(tokens) - 1), tokens[first:]].mean()


def _merged(image: Forest) -> np.ndarray:
    return image.images.merged_BT[0][image.images.merged_BT[0] >= 0]
