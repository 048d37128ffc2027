"""PyTorch modules as the code of InternVL3's original folders names and fuses them, made of transformers' numbers.

That code asks for an older transformers, and is never run here. What PEFT needs of it is its tree of modules, which its
tensors' names and shapes give: `mlp1` is a Sequential, a block of the tower has one linear for queries, keys and
values, and the decoder is transformers' own. The whole is no class that generates text by itself.
"""

from transformers import Qwen2ForCausalLM

from tests.support.needs_torch import needs_torch

torch = needs_torch()
nn = torch.nn


class Attention(nn.Module):
    """A block's attention with one linear for queries, keys and values."""

    def __init__(self, theirs: nn.Module):
        """Of transformers' attention, which has three."""
        super().__init__()
        parts = [theirs.q_proj, theirs.k_proj, theirs.v_proj]
        self.num_heads, width = theirs.num_heads, theirs.embed_dim
        self.qkv, self.proj = nn.Linear(width, 3 * width), theirs.projection_layer
        self.qkv.weight.data = torch.cat([part.weight.data for part in parts])
        self.qkv.bias.data = torch.cat([part.bias.data for part in parts])

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [B, T, D]."""
        heads = [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x_BTD).chunk(3, dim=-1)]
        return self.proj(nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A block of the tower."""

    def __init__(self, theirs: nn.Module):
        """Of transformers' block."""
        super().__init__()
        self.norm1, self.norm2, self.mlp = theirs.layernorm_before, theirs.layernorm_after, theirs.mlp
        self.ls1, self.ls2, self.attn = theirs.lambda_1, theirs.lambda_2, Attention(theirs.attention)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [B, T, D]."""
        x_BTD = x_BTD + self.ls1 * self.attn(self.norm1(x_BTD))
        return x_BTD + self.ls2 * self.mlp(self.norm2(x_BTD))


class ChatModel(nn.Module):
    """The model; no member of it is called as in transformers' layout."""

    def __init__(self, theirs: nn.Module):
        """Of transformers' model in its own layout, whose parameters it shares."""
        super().__init__()
        inner = theirs.model
        self.vision_model = nn.Module()
        self.vision_model.embeddings = inner.vision_tower.embeddings
        self.vision_model.encoder = nn.Module()
        self.vision_model.encoder.layers = nn.ModuleList(map(Block, inner.vision_tower.encoder.layer))
        projector = inner.multi_modal_projector
        self.mlp1 = nn.Sequential(projector.layer_norm, projector.linear_1, nn.GELU(), projector.linear_2)
        with torch.device("meta"):
            self.language_model = Qwen2ForCausalLM(theirs.config.text_config)
        self.language_model.model, self.language_model.lm_head = inner.language_model, theirs.lm_head
        self.config, self._shuffle = theirs.config, inner.pixel_shuffle

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None, **_: object) -> torch.Tensor:
        """Logits [B, T, V]."""
        embedded_BTD = self.language_model.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            x_BTD = self.vision_model.embeddings(pixel_values)
            for block in self.vision_model.encoder.layers:
                x_BTD = block(x_BTD)
            side = int((x_BTD.shape[1] - 1) ** 0.5)
            merged = self._shuffle(x_BTD[:, 1:].unflatten(1, (side, side)), self.config.downsample_ratio)
            features = self.mlp1(merged.flatten(1, 2)).flatten(0, 1)
            embedded_BTD = embedded_BTD.masked_scatter(
                (input_ids == self.config.image_token_id)[..., None], features.to(embedded_BTD.dtype)
            )
        return self.language_model(inputs_embeds=embedded_BTD).logits
