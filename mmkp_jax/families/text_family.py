"""Text-only families: the shared decoder alone. Posts are fed without their images."""

from collections.abc import Callable, Mapping
from typing import Any

from mmkp_jax.data.processor import TextProcessor
from mmkp_jax.families.decoder_names import decoder_names
from mmkp_jax.models.decoder import DecoderModel, decoder_products, head_product, saved_by_decoder
from mmkp_jax.models.decoder_config import DecoderConfig
from mmkp_jax.models.family import TEMPLATE_TOKENS, Family, Names, Product, Reference, Stage, Work

STAGES = (
    Stage("decoder", "decoder", scanned=True, last="mlp.down.weight"),
    Stage("lm_head", "head"),
)


def products(config: DecoderConfig, sizes: Mapping[str, int], work: Work) -> list[Product]:
    """The products of a forward pass."""
    return [*decoder_products(config, sizes, work), head_product(config, sizes, work)]


def saved_by_layers(config: DecoderConfig, slots: Mapping[str, int]) -> dict[str, int]:
    """Numbers in the inputs of layers and the outputs of their attention, of a row."""
    return {"decoder": saved_by_decoder(config, slots["tokens"])}


def processor_of(config: DecoderConfig, settings: Mapping[str, int]) -> TextProcessor:
    """The processor of text, which has no settings."""
    return TextProcessor()


def text_family(
    name: str,
    read_config: Callable[[Mapping[str, Any], str], DecoderConfig],
    *,
    qkv_bias: bool,
    model: str,
    published: Mapping[str, Mapping[str, Any]],
    typical_post: Mapping[str, float],
    template_tokens: int = TEMPLATE_TOKENS,
    **of_template: Any,
) -> Family:
    """A family whose models are `DecoderModel`s.

    Args:
        name: its `model_type`.
        model: its class in transformers.
        published, typical_post, template_tokens: as in `Family`.
        of_template: what the card says of the chat template (`Reference.end` and `is_dated`).
    """
    return Family(
        name=name,
        read_config=read_config,
        build=DecoderModel,
        names=Names(decoder_names(qkv_bias=qkv_bias), tied={"lm_head": "decoder.embedding"}),
        processor=processor_of,
        stages=STAGES,
        products=products,
        saved_by_layers=saved_by_layers,
        reference=Reference(model, None, inputs=lambda ids, config: {}, expand="", extra="", images="", **of_template),
        published=published,
        typical_post=typical_post,
        template_tokens=template_tokens,
    )
