"""A small model that embeds."""

import pytest

from tests.support.needs_torch import needs_torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "dog", "cat", "red", "bus"]


@pytest.fixture
def embedding_folder(tmp_path):
    """A small BERT of random weights, as sentence-transformers lays it out."""
    torch = needs_torch()
    from transformers import BertConfig, BertModel, BertTokenizer

    root = tmp_path / "embedding"
    root.mkdir()
    (root / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(root / "vocab.txt")).save_pretrained(root)
    torch.manual_seed(0)
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(root)
    return root
