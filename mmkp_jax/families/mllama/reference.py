"""transformers' Llama 3.2 Vision: its inputs, and what has to be set right in it."""

from typing import Any

MODEL, IMAGE_PROCESSOR = "MllamaForConditionalGeneration", "MllamaImageProcessorPil"


def inputs(ids: Any, config: Any) -> dict[str, Any]:
    """No further inputs."""
    return {}


def of_images(ids: Any, seen: Any, config: Any) -> dict[str, Any]:
    """The mask of cross-attention, [1, T, J, Z]: a token sees the filled tiles of the last image before it.

    Where all of it is 0, transformers attends to every tile, and adds no MLP.
    """
    import torch

    tiles_1JZ = seen["aspect_ratio_mask"]
    image_1T = (ids == config.image_token_index).cumsum(1) - 1
    is_seen_1TJ = image_1T[..., None] == torch.arange(tiles_1JZ.shape[1])
    return {"cross_attention_mask": is_seen_1TJ[..., None] * tiles_1JZ[:, None]}


def adjust(model: Any) -> None:
    """Names the layers so that transformers takes what the model was trained on: their inputs.

    From release 4.56 on it takes the outputs of the layers that the config names.
    """
    vision = model.model.vision_model
    states = vision.transformer(vision.class_embedding[None, None]).hidden_states
    if len(states) == len(vision.transformer.layers):  # the first layer's input is not among them
        vision.intermediate_layers_indices = [layer - 1 for layer in vision.intermediate_layers_indices]


ADJUSTING = """\
vision = model.model.vision_model
token = vision.class_embedding[None, None]
if len(vision.transformer(token).hidden_states) == len(vision.transformer.layers):
    # this release takes the outputs of layers whose inputs the model was trained on
    vision.intermediate_layers_indices = [layer - 1 for layer in vision.intermediate_layers_indices]
"""
"""`adjust` as code."""

VLLM = "vLLM has this family up to release 0.10.2: `pip install vllm==0.10.2`."

EXPAND = """\
inputs.pop("num_tiles")
"""

EXTRA = """\
if image is not None:  # tokens see its tiles from its own token on
    sees = (ids == model.config.image_token_index).cumsum(1).bool()
    inputs["cross_attention_mask"] = sees[:, :, None, None] * inputs["aspect_ratio_mask"][:, None]
"""
