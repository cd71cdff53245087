"""Attention of all layers and rollout: equal to dense references, linear memory, who has them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slide_tokens import run, tokens_of
from torch.utils._python_dispatch import TorchDispatchMode

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.attention import SCORING_BUFFER, MultiHeadAttention, passed_attention
from tiacrossfusion.networks.attention_trace import trace_attention
from tiacrossfusion.networks.conv_processor import ConcatProcessor, ConvProcessor, shares_of_norms
from tiacrossfusion.networks.ensemble import Ensemble
from tiacrossfusion.networks.layout import square_side
from tiacrossfusion.networks.registry import NETWORKS, build_network, network_sizes
from tiacrossfusion.networks.trained import TrainedNetwork

few = settings(max_examples=10, deadline=None)
tokens = st.integers(1, 30)
seeds = st.integers(0, 2**16)
FAMILY = ("crossfusion", "crossfusion-no-conv", "crossfusion-20x")
family = pytest.mark.parametrize("name", FAMILY)
MAPS = ("transform_source", "transform_fine", "transform_coarse")


def loud(name, *, depth=1, **sizes):
    """A network whose weights are large enough for every path to matter."""
    if name in FAMILY:
        sizes |= {"depth": depth, "num_heads": 2}
    elif "num_heads" in network_sizes(name):
        sizes["num_heads"] = 2
    if "embed_dim" in network_sizes(name):
        sizes["embed_dim"] = 8
    model = build_network(name, encoder_width=6, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def bags(n5, n10, n20, *, batch=1):
    return [torch.randn(batch, n, 6) for n in (n5, n10, n20)]


def rolled(model, x5, x10, x20):
    """Attention rolled out to the tokens."""
    return model.rollout(tokens_of(x5, x10, x20))


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, tuple | list) else (out,):
            if isinstance(item, torch.Tensor):
                self.largest = max(self.largest, item.numel())
        return out


def dense_maps(model, inputs):
    """Dense mean maps (B, N, M) of all layers from their inputs, and the maps that are fused."""
    maps, fused = {}, []

    def attend(name):
        def keep(layer, args):
            query, key = layer.query(args[0]), layer.key(args[1])
            heads = zip(query.chunk(2, dim=2), key.chunk(2, dim=2), strict=True)
            weights = [torch.softmax(q @ k.mT / 4**0.5, dim=2) for q, k in heads]
            maps[name.removesuffix(".attention")] = sum(weights) / 2

        return keep

    hooks = [
        layer.register_forward_pre_hook(attend(name))
        for name, layer in model.named_modules()
        if isinstance(layer, MultiHeadAttention)
    ]
    hooks.append(model.conv_processor.register_forward_pre_hook(lambda _, args: fused.extend(args)))
    with torch.no_grad():
        run(model, inputs)
    for hook in hooks:
        hook.remove()
    return maps, fused


def folded(scores, n):
    """Mean score (..., n) of each token over its appearances among (..., T), scaled to the sum of all."""
    side = square_side(n)
    origin = torch.cat([torch.arange(n), torch.arange(side**2 - n)])
    appears = torch.nn.functional.one_hot(origin, n).to(scores.dtype)
    means = scores @ appears / appears.sum(dim=0)
    return means * scores.sum(dim=-1, keepdim=True) / means.sum(dim=-1, keepdim=True)


# --- the kernel ----------------------------------------------------------------------------------


@few
@given(seed=seeds, n=tokens, m=tokens, batch=st.integers(1, 3), buffer=st.integers(1, 400))
def test_mass_is_passed_on_as_by_the_dense_map_at_any_buffer_size(seed, n, m, batch, buffer):
    torch.manual_seed(seed)
    query, key = 3 * torch.randn(batch, 2, n, 4), 3 * torch.randn(batch, 2, m, 4)
    mass = torch.rand(batch, n) / n
    dense = torch.softmax(query @ key.mT / 2, dim=-1).mean(dim=1)  # (B, N, M)
    passed = passed_attention(mass, query, key, buffer=buffer)
    torch.testing.assert_close(passed, (mass[:, None] @ dense)[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(passed.sum(1), mass.sum(1), atol=1e-6, rtol=1e-5)


def test_logits_beyond_the_range_of_exp_do_no_harm():
    query = torch.tensor([[[[300.0], [-300.0], [0.0]]]])
    key = torch.tensor([[[[1.0], [-1.0]]]])
    passed = passed_attention(torch.tensor([[0.2, 0.3, 0.5]]), query, key)
    torch.testing.assert_close(passed, torch.tensor([[0.45, 0.55]]))


# --- all layers ----------------------------------------------------------------------------------


@family
@few
@given(
    seed=seeds,
    lengths=st.tuples(tokens, tokens, tokens),
    batch=st.integers(1, 2),
    depth=st.integers(1, 2),
)
def test_every_layer_is_scored_as_by_its_dense_map(name, seed, lengths, batch, depth):
    torch.manual_seed(seed)
    model = loud(name, depth=depth)
    inputs = bags(*lengths, batch=batch)
    n = lengths[2 if name.endswith("20x") else 1]
    maps, _ = dense_maps(model, inputs)
    with torch.no_grad(), trace_attention(model) as trace:
        traced = run(model, inputs)
    with torch.no_grad():
        plain = run(model, inputs, attention=True)
    assert torch.equal(traced.logits, plain.logits)
    assert traced.attention is None

    assert list(trace.received) == list(maps)
    assert len(maps) == (4 * depth if name.endswith("20x") else 2 + 8 * depth)
    for layer, map_ in maps.items():
        expected = map_.mean(dim=1)  # over all queries, copies and the class token included
        if layer.startswith("transform_final"):
            expected = folded(expected[:, 1:], n)
        elif layer.startswith("transform"):
            expected = folded(expected, n)
        torch.testing.assert_close(trace.received[layer], expected, atol=1e-6, rtol=0)
    row = folded(maps[f"transform_final.post.{depth - 1}"][:, 0, 1:], n)
    torch.testing.assert_close(trace.class_token, row, atol=1e-6, rtol=0)

    # The four scores of the output are among them.
    if name.endswith("20x"):
        assert torch.equal(plain.attention.x20, trace.class_token)
    else:
        assert torch.equal(plain.attention.fused, trace.class_token)
        for field, layer in (
            ("x5", "cross_coarse"),
            ("x10", f"transform_source.post.{depth - 1}"),
            ("x20", "cross_fine"),
        ):
            assert torch.equal(getattr(plain.attention, field), trace.received[layer])


def test_a_trace_holds_the_last_pass_alone():
    model = loud("crossfusion")
    with torch.no_grad(), trace_attention(model) as trace:
        assert trace.received == {}
        assert trace.class_token is None
        model(*bags(3, 7, 9))
        first = trace.received
        model(*bags(4, 5, 6))
    assert trace.received["cross_fine"].shape == (1, 6)
    assert trace.class_token.shape == (1, 5)
    assert first["cross_fine"].shape == (1, 9)


def test_nothing_is_seen_after_the_trace_nor_after_a_failure():
    model = loud("crossfusion")
    hooks = len(model._forward_pre_hooks)
    with pytest.raises(TiacfError, match="x20 has features"), trace_attention(model) as trace:
        model(*bags(3, 7, 9)[:2], torch.randn(1, 9, 5))
    with torch.no_grad():
        model(*bags(3, 7, 9))
    assert trace.received == {}
    assert len(model._forward_pre_hooks) == hooks
    layers = [layer for layer in model.modules() if isinstance(layer, MultiHeadAttention)]
    assert len(layers) == 10
    assert all(layer.observer is None for layer in layers)


def test_rollout_inside_a_trace_leaves_the_trace_at_work():
    model, inputs = loud("crossfusion"), bags(3, 7, 9)
    with torch.no_grad(), trace_attention(model) as trace:
        rolled(model, *inputs)
        model(*inputs)
    assert len(trace.received) == 10


def test_a_trained_network_is_traced_under_the_names_of_the_one_inside():
    torch.manual_seed(0)
    inner = loud("crossfusion", num_bins=1)
    model = TrainedNetwork(inner, standardise=True, num_bins=3).eval()
    mean, sd = torch.randn(3, 6), torch.rand(3, 6) + 0.5
    model.set_moments(mean, sd)
    model.set_baseline(torch.rand(3))
    x5, x10, x20 = bags(4, 10, 20)
    by_hand = [(x - m) / s for x, m, s in zip((x5, x10, x20), mean, sd, strict=True)]
    with torch.no_grad(), trace_attention(model) as trace:
        model(x5=x5, x10=x10, x20=x20)
    with torch.no_grad(), trace_attention(inner) as expected:
        inner(*by_hand)
    assert list(trace.received) == list(expected.received)
    for layer, scores in expected.received.items():
        torch.testing.assert_close(trace.received[layer], scores)
    ours, inside = rolled(model, x5, x10, x20), rolled(inner, *by_hand)
    torch.testing.assert_close(ours.x20, inside.x20)


def test_tracing_cuts_no_gradient_and_keeps_none():
    model = loud("crossfusion")
    inputs = [x.requires_grad_() for x in bags(4, 10, 20)]
    wanted = torch.autograd.grad(model(*inputs).risk.sum(), inputs)
    with trace_attention(model) as trace:
        risk = model(*inputs).risk.sum()
    for ours, plain in zip(torch.autograd.grad(risk, inputs), wanted, strict=True):
        assert torch.equal(ours, plain)
    assert not any(scores.requires_grad for scores in trace.received.values())
    assert not rolled(model, *inputs).x20.requires_grad


def test_scores_under_autocast_are_in_float32():
    torch.manual_seed(0)
    model, inputs = loud("crossfusion"), bags(4, 10, 20)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        with trace_attention(model) as trace:
            model(*inputs)
        found = rolled(model, *inputs)
    for layer, scores in trace.received.items():
        assert scores.dtype == torch.float32
        if not layer.startswith("transform_final"):
            torch.testing.assert_close(scores.sum(1), torch.ones(1))
    total = sum(part.sum(1) for part in (found.x5, found.x10, found.x20))
    assert found.x20.dtype == torch.float32
    torch.testing.assert_close(total, torch.ones(1))


@pytest.mark.parametrize(
    ("name", "n10", "n20"), [("crossfusion", 2500, 16_000), ("crossfusion-20x", 1, 6000)]
)
def test_no_dense_map_is_needed(name, n10, n20):
    model = loud(name)
    inputs = bags(500, n10, n20)
    dense = model.num_heads * n20 * (n20 if name.endswith("20x") else n10)
    with torch.no_grad(), LargestTensor() as seen:
        with trace_attention(model):
            run(model, inputs)
        rolled(model, *inputs)
    assert seen.largest <= SCORING_BUFFER < dense / 15


# --- rollout -------------------------------------------------------------------------------------


def dense_rollout(model, inputs, name, depth):
    """Rollout by products of dense matrices, in the order of the forward pass; by scale."""
    maps, fused = dense_maps(model, inputs)
    n = inputs[2 if name.endswith("20x") else 1].shape[1]
    n10 = inputs[1].shape[1]

    def through(transformer):
        product = None
        for block in ("pre", "post"):
            for i in range(depth):
                map_ = maps[f"{transformer}.{block}.{i}"]
                step = (map_ + torch.eye(map_.shape[1], dtype=map_.dtype)) / 2
                product = step if product is None else step @ product
        return product

    row = through("transform_final")[:, :1, 1:]  # (B, 1, T)
    row = row / row.sum(dim=2, keepdim=True)
    if isinstance(model.conv_processor, ConvProcessor):
        weights = model.conv_processor.mix.weight.detach().flatten()
        terms = [abs(w) * x.norm(dim=2) for w, x in zip(weights, fused, strict=True)]
    else:
        nothing = [torch.zeros_like(x) for x in fused]
        linear = model.conv_processor.linear
        terms = []
        for i, x in enumerate(fused):
            alone = torch.cat([*nothing[:i], x, *nothing[i + 1 :]], dim=2)
            terms.append((linear(alone) - linear.bias).norm(dim=2).detach())
    total = sum(terms)
    if name.endswith("20x"):
        return {"x20": folded(row @ through("transform_fine"), n)[:, 0]}
    source, fine, coarse = (
        folded((row * (term / total)[:, None]) @ through(transformer), n)
        for transformer, term in zip(MAPS, terms, strict=True)
    )
    assert source.shape[2] == n10
    return {
        "x5": (coarse @ maps["cross_coarse"])[:, 0] / 2,
        "x10": (source + (coarse + fine) / 2)[:, 0],
        "x20": (fine @ maps["cross_fine"])[:, 0] / 2,
    }


@family
@few
@given(
    seed=seeds,
    lengths=st.tuples(tokens, tokens, tokens),
    batch=st.integers(1, 2),
    depth=st.integers(1, 2),
)
def test_rollout_equals_the_product_of_dense_matrices(name, seed, lengths, batch, depth):
    torch.manual_seed(seed)
    model = loud(name, depth=depth).double()
    inputs = [x.double() for x in bags(*lengths, batch=batch)]
    expected = dense_rollout(model, inputs, name, depth)
    found = rolled(model, *inputs)
    total = torch.zeros(batch, dtype=torch.float64)
    for scale in ("x5", "x10", "x20"):
        ours = getattr(found, scale)
        if scale not in expected:
            assert ours is None
            continue
        torch.testing.assert_close(ours, expected[scale], atol=1e-12, rtol=1e-9)
        assert (ours >= 0).all()
        total += ours.sum(dim=1)
    torch.testing.assert_close(total, torch.ones(batch, dtype=torch.float64))


def test_rollout_follows_the_order_of_the_5x_and_20x_tokens():
    torch.manual_seed(0)
    model = loud("crossfusion").double()
    x5, x10, x20 = (x.double() for x in bags(5, 10, 20))
    order5, order20 = torch.randperm(5), torch.randperm(20)
    straight = rolled(model, x5, x10, x20)
    mixed = rolled(model, x5[:, order5], x10, x20[:, order20])
    torch.testing.assert_close(mixed.x5, straight.x5[:, order5])
    torch.testing.assert_close(mixed.x10, straight.x10)
    torch.testing.assert_close(mixed.x20, straight.x20[:, order20])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_map_that_the_processor_ignores_carries_nothing(place):
    torch.manual_seed(0)
    model = loud("crossfusion")
    with torch.no_grad():
        model.conv_processor.mix.weight[:, place] = 0
    found = rolled(model, *bags(5, 10, 20))
    shares = [part.sum().item() for part in (found.x10, found.x20, found.x5)]
    if place == 0:  # 10x still has what the residuals of the two others leave it
        assert shares[0] == pytest.approx(0.5)
    else:
        assert shares[place] == 0
    assert sum(shares) == pytest.approx(1)


def test_one_token_per_scale_rolls_out():
    found = rolled(loud("crossfusion"), *bags(1, 1, 1))
    assert found.x5.item() + found.x10.item() + found.x20.item() == pytest.approx(1)
    alone = rolled(loud("crossfusion-20x"), *bags(1, 1, 1))
    assert alone.x20.item() == pytest.approx(1)
    assert alone.x5 is alone.x10 is None


def test_shares_of_maps_that_add_nothing_are_equal():
    zeros = torch.zeros(2, 4, 8)
    assert torch.equal(shares_of_norms([zeros, zeros]), torch.full((2, 2, 4), 0.5))
    shares = ConcatProcessor(8, 0.0).shares(zeros, torch.randn(2, 4, 8), zeros)
    assert torch.equal(shares[:, 1], torch.ones(2, 4))


# --- who has it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NETWORKS.names() if name not in FAMILY])
def test_other_networks_have_neither_layers_nor_rollout(name):
    model, inputs = loud(name), bags(4, 10, 20)
    with torch.no_grad(), trace_attention(model) as trace:
        run(model, inputs)
    assert trace.received == {}
    assert trace.class_token is None
    assert rolled(model, *inputs) is None


def ensemble(name):
    members = [TrainedNetwork(loud(name)).eval() for _ in range(2)]
    return Ensemble(members, torch.eye(4, 5, dtype=torch.float32).expand(2, 4, 5))


@family
def test_rollout_of_an_ensemble_is_the_mean_of_its_members(name):
    torch.manual_seed(0)
    model, inputs = ensemble(name), bags(4, 10, 20, batch=2)
    ours = rolled(model, *inputs)
    first, second = (rolled(member, *inputs) for member in model.members)
    for scale in ("x5", "x10", "x20"):
        if getattr(first, scale) is None:
            assert getattr(ours, scale) is None
        else:
            mean = (getattr(first, scale) + getattr(second, scale)) / 2
            torch.testing.assert_close(getattr(ours, scale), mean)


def test_an_ensemble_is_not_traced_as_one_but_member_by_member():
    model, inputs = ensemble("crossfusion"), bags(4, 10, 20)
    with (
        pytest.raises(TiacfError, match="ensemble of 2 networks") as refusal,
        trace_attention(model),
    ):
        pass
    assert "\n" not in str(refusal.value)
    with torch.no_grad(), trace_attention(model.members[1]) as trace:
        model(*inputs)
    assert len(trace.received) == 10
    assert rolled(ensemble("abmil"), *inputs) is None


def test_bags_that_do_not_fit_are_refused_by_rollout():
    x5, x10, x20 = bags(4, 10, 20)
    with pytest.raises(TiacfError, match="x10 has shape"):
        rolled(loud("crossfusion"), x5, x10[:, :0], x20)
