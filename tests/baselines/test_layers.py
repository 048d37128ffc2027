"""Layers of the traditional models against PyTorch's: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmkp_jax.baselines.layers import AdditiveAttention, BiGRU, CoAttention, MultiHeadFusion, dropout, masked_max

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def test_bigru_and_its_gradient_are_pytorchs_on_packed_sequences():
    torch = pytest.importorskip("torch")
    ours = BiGRU(3, 4, 2, nnx.Rngs(0))
    theirs = torch.nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    with torch.no_grad():
        for layer in range(2):
            for cell, suffix in ((ours.forwards[layer], ""), (ours.backwards[layer], "_reverse")):
                for name, linear in (("ih", cell.input), ("hh", cell.recurrent)):
                    getattr(theirs, f"weight_{name}_l{layer}{suffix}").copy_(torch.tensor(np.asarray(linear.kernel).T))
                    getattr(theirs, f"bias_{name}_l{layer}{suffix}").copy_(torch.tensor(np.asarray(linear.bias)))
    x_BSE, lengths, weight = random(2, 5, 3), [5, 3], random(2, 5, 8)
    mask_BS = np.arange(5) < np.array(lengths)[:, None]

    def total(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        found = ours(x, jnp.asarray(mask_BS), 0.0, None)
        return (found[0] * weight).sum() + found[1].sum(), found

    gradient, (state_BSD, first_BD) = jax.grad(total, has_aux=True)(jnp.asarray(x_BSE))
    x = torch.tensor(x_BSE, requires_grad=True)
    packed, last = theirs(torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
    final = torch.cat((last[-1], last[-2]), dim=1)
    ((expected * torch.tensor(weight)).sum() + final.sum()).backward()
    np.testing.assert_allclose(state_BSD, expected.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(first_BD, final.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(gradient, x.grad.numpy(), atol=1e-6)


def test_multi_head_fusion_and_its_gradient_are_a_statement_in_pytorch():
    torch = pytest.importorskip("torch")
    block = MultiHeadFusion(6, nnx.Rngs(1))
    q_BD, m_BMD, mask_BM = random(2, 6), random(2, 3, 6), np.array([[1, 1, 1], [1, 0, 0]], bool)
    ours = jax.grad(lambda m: (block(q_BD, m, mask_BM, 0.0, None) ** 3).sum())(jnp.asarray(m_BMD))

    def tensor(param: nnx.Param) -> "torch.Tensor":
        return torch.tensor(np.asarray(param[...]))

    m, q, of = torch.tensor(m_BMD, requires_grad=True), torch.tensor(q_BD)[:, None], block.attention
    heads = [
        torch.einsum("btd,dhk->bthk", x, tensor(part.kernel)) + tensor(part.bias)
        for x, part in ((q, of.query), (m, of.key), (m, of.value))
    ]
    score = torch.einsum("bqhk,bmhk->bhqm", *heads[:2]) / 128**0.5
    share = score.masked_fill(~torch.tensor(mask_BM)[:, None, None], float("-inf")).softmax(-1)
    read = torch.einsum("bhqm,bmhk->bqhk", share, heads[2])
    x = q + torch.einsum("bqhk,hkd->bqd", read, tensor(of.out.kernel)) + tensor(of.out.bias)
    x = torch.nn.functional.layer_norm(x, (6,), eps=1e-6)
    hidden = (x @ tensor(block.inner.kernel) + tensor(block.inner.bias)).relu()
    x = torch.nn.functional.layer_norm(
        x + hidden @ tensor(block.outer.kernel) + tensor(block.outer.bias), (6,), eps=1e-6
    )
    (x[:, 0] ** 3).sum().backward()
    np.testing.assert_allclose(block(q_BD, m_BMD, mask_BM, 0.0, None), x[:, 0].detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(ours, m.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("fusion", ["additive", "co"])
def test_masked_slots_are_not_read(fusion):
    m_BMD, mask_BM = random(2, 4, 6), np.array([[1, 1, 0, 0], [1, 1, 1, 0]], bool)
    other_BMD = np.where(mask_BM[..., None], m_BMD, 99.0)
    if fusion == "additive":
        layer, q = AdditiveAttention(6, nnx.Rngs(2)), random(2, 3, 6)
        (first, share_BTM), (second, _) = layer(q, m_BMD, mask_BM), layer(q, other_BMD, mask_BM)
        np.testing.assert_allclose(share_BTM.sum(-1), 1, atol=1e-6)
    else:
        layer, text = CoAttention(6, nnx.Rngs(2)), (random(2, 3, 6), np.ones((2, 3), bool))
        first, second = layer(*text, m_BMD, mask_BM), layer(*text, other_BMD, mask_BM)
    np.testing.assert_array_equal(first, second)


def test_additive_attention_is_bahdanaus():
    layer, q, m = AdditiveAttention(2, nnx.Rngs(3)), random(1, 1, 2), random(1, 2, 2)
    w, u, v, o = (np.asarray(each.kernel) for each in (layer.query, layer.memory, layer.score, layer.output))
    score = [(np.tanh(q[0, 0] @ w + m[0, slot] @ u) @ v).item() for slot in range(2)]
    share = np.exp(score) / np.exp(score).sum()
    context, found = layer(q, m, np.ones((1, 2), bool))
    np.testing.assert_allclose(found[0, 0], share, atol=1e-6)
    np.testing.assert_allclose(context[0, 0], np.concatenate([share @ m[0], q[0, 0]]) @ o, atol=1e-6)


def test_no_slot_gives_0_and_dropout_needs_a_key():
    x = jnp.ones((1, 2, 3))
    assert not masked_max(x, jnp.zeros((1, 2), bool)).any()
    assert dropout(x, 0.5, None) is x
    assert set(np.unique(dropout(jnp.ones(100), 0.5, jax.random.key(0)))) == {0, 2}
