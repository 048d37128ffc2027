"""LoRA for tests: a model with adapters away from zero, from a folder."""

import jax
import jax.numpy as jnp
import numpy as np

from mmkp_jax.hf.folder import Folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.definition import Definition, Params, define_from, flatten, unflatten
from mmkp_jax.models.lora import Lora, first_adapters, is_adapter


def with_adapters(folder: Folder, lora: Lora, *, seed: int | None = 0) -> tuple[Definition, Params]:
    """The folder's model with adapters, in float32: random where there is a seed, else as before the first step."""
    definition = define_from(folder.family, folder.model_config, lora=lora)
    params = flatten(load_params(folder, definition.base_shapes()))
    adapters = {path: leaf for path, leaf in flatten(definition.shapes()).items() if is_adapter(path)}
    if seed is None:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        params |= first_adapters({path: leaf.update(sharding=device) for path, leaf in adapters.items()}, seed=0)
    else:
        draw = np.random.default_rng(seed).standard_normal
        params |= {path: jnp.asarray(0.1 * draw(leaf.shape, np.float32)) for path, leaf in adapters.items()}
    return definition, unflatten({path: params[path] for path in flatten(definition.shapes())})
