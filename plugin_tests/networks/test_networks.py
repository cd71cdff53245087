"""The networks: CrossFusion's invariants, what all networks keep to, scores, wrapping, refusals."""

import ast
import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slide_tokens import run, tokens_of
from torch.utils._python_dispatch import TorchDispatchMode

from tiacrossfusion import networks
from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.attention import (
    SCORING_BUFFER,
    MultiHeadAttention,
    attention_received,
    class_token_attention,
)
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import scales_read
from tiacrossfusion.networks.conv_processor import ConcatProcessor
from tiacrossfusion.networks.crossfusion import CrossFusion
from tiacrossfusion.networks.dropped_attention import (
    DROPPING_BUFFER,
    _DroppedAttention,
    dropped_attention,
)
from tiacrossfusion.networks.layout import fold_copies, pad_to_square, square_side
from tiacrossfusion.networks.pad_transformer import PadTransformer
from tiacrossfusion.networks.registry import (
    COXNETS,
    FUSIONS,
    NETWORKS,
    build_network,
    model_names,
    network_sizes,
)
from tiacrossfusion.networks.trained import TrainedNetwork, proportional_logits

few = settings(max_examples=15, deadline=None)
tokens = st.integers(1, 30)
seeds = st.integers(0, 2**16)


def tiny(**sizes):
    return CrossFusion(**{"encoder_width": 6, "embed_dim": 8, "num_heads": 2} | sizes)


def loud(model):
    """Weights large enough for every path to matter in the output."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def bags(n5, n10, n20, *, batch=1, width=6):
    return [torch.randn(batch, n, width) for n in (n5, n10, n20)]


def dense_weights(query, key):
    return torch.softmax(query @ key.transpose(2, 3) / query.shape[-1] ** 0.5, dim=-1)


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, tuple | list) else (out,):
            if isinstance(item, torch.Tensor):
                self.largest = max(self.largest, item.numel())
        return out


# --- attention ---------------------------------------------------------------------------------


@few
@given(seed=seeds, n=tokens, m=tokens, batch=st.integers(1, 3), buffer=st.integers(1, 400))
def test_scores_equal_the_dense_computation_at_any_buffer_size(seed, n, m, batch, buffer):
    torch.manual_seed(seed)
    query, key = 3 * torch.randn(batch, 2, n, 4), 3 * torch.randn(batch, 2, m, 4)
    weights = dense_weights(query, key)
    received = attention_received(query, key, buffer=buffer)
    torch.testing.assert_close(received, weights.mean(dim=(1, 2)), atol=1e-6, rtol=0)
    torch.testing.assert_close(received.sum(1), torch.ones(batch), atol=1e-5, rtol=0)
    class_row = class_token_attention(query, key)
    torch.testing.assert_close(class_row, weights[:, :, 0].mean(dim=1), atol=1e-6, rtol=0)


def test_attention_output_equals_the_dense_computation():
    attention = MultiHeadAttention(8, 2).double()
    x, context = torch.randn(2, 5, 8).double(), torch.randn(2, 7, 8).double()
    query, key, value = (
        layer(t).view(2, -1, 2, 4).transpose(1, 2)
        for layer, t in (
            (attention.query, x),
            (attention.key, context),
            (attention.value, context),
        )
    )
    dense = (dense_weights(query, key) @ value).transpose(1, 2).reshape(2, 5, 8)
    out, scores = attention(x, context)
    assert scores is None
    torch.testing.assert_close(out, attention.out(dense))


def test_attention_dropout_acts_in_training_only():
    attention = MultiHeadAttention(8, 2, dropout=0.5)
    x = torch.randn(1, 20, 8)
    assert not torch.equal(attention(x, x)[0], attention(x, x)[0])
    attention.eval()
    assert torch.equal(attention(x, x)[0], attention(x, x)[0])


def test_scores_need_no_dense_map():
    model = tiny().eval()
    n10, n20 = 4000, 16000
    with torch.no_grad(), LargestTensor() as seen:
        model(*bags(1000, n10, n20), attention=True)
    dense = model.num_heads * n10 * n20
    assert seen.largest <= SCORING_BUFFER < dense / 20


def test_a_bag_longer_than_the_buffer_goes_one_query_at_a_time():
    query, key = torch.randn(1, 1, 3, 2), torch.randn(1, 1, 50, 2)
    with LargestTensor() as seen:
        attention_received(query, key, buffer=10)
    assert seen.largest <= key.numel()


# --- attention with dropout ----------------------------------------------------------------------


def heads(n, m, *, batch=2, width=3, dtype=torch.float64):
    """Queries, keys and values of two heads."""
    shapes = [(batch, 2, length, width) for length in (n, m, m)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def drawn_mask(query, key, dropout, seed, **options):
    """The mask of `dropped_attention`, read off with the identity as values and queries of 0."""
    torch.manual_seed(seed)
    m = key.shape[2]
    identity = torch.eye(m, dtype=query.dtype).expand(*query.shape[:2], m, m)
    zeros = query.new_zeros(*query.shape[:3], m)
    return m * dropped_attention(zeros, identity, identity, dropout, **options).detach()


@few
@given(seed=seeds, n=tokens, m=tokens, p=st.floats(0, 0.9), buffer=st.integers(1, 400))
def test_dropped_attention_and_gradients_equal_the_dense_ones_with_the_same_mask(
    seed, n, m, p, buffer
):
    torch.manual_seed(seed)
    query, key, value = heads(n, m)
    mask = drawn_mask(query, key, p, seed, buffer=buffer)
    rounded = round(p * 2**16) / 2**16
    values = torch.tensor([0, 1 / (1 - rounded)], dtype=mask.dtype)
    torch.testing.assert_close(mask, values[(mask > 0.5).long()])
    dense = (dense_weights(query, key) * mask) @ value
    torch.manual_seed(seed)
    ours = dropped_attention(query, key, value, p, buffer=buffer)
    torch.testing.assert_close(ours, dense)
    arriving = torch.randn_like(dense)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (query, key, value), arriving),
        torch.autograd.grad(dense, (query, key, value), arriving),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_dropped_attention_passes_the_check_by_finite_differences():
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(
        lambda *inputs: _DroppedAttention.apply(*inputs, 0.3, 5, 3), heads(7, 5)
    )


def test_without_anything_dropped_it_is_the_fused_kernel():
    query, key, value = heads(9, 11)
    fused = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(dropped_attention(query, key, value, 1e-9, buffer=50), fused)


def test_masks_follow_the_seed_drop_the_right_share_and_keep_the_mean():
    query, key, value = heads(40, 50, batch=1)
    masks = [drawn_mask(query, key, 0.2, seed, buffer=1000) for seed in range(50)]
    assert torch.equal(masks[3], drawn_mask(query, key, 0.2, 3, buffer=1000))
    assert not torch.equal(masks[3], masks[4])
    dropped = (torch.stack(masks) == 0).double()  # 50 draws of 4,000 weights
    assert dropped.mean().item() == pytest.approx(0.2, abs=4 * (0.16 / dropped.numel()) ** 0.5)
    assert dropped.mean(dim=0).std().item() == pytest.approx((0.16 / 50) ** 0.5, rel=0.1)

    draws = []
    for seed in range(400):
        torch.manual_seed(seed)
        draws.append(dropped_attention(query, key, value, 0.2).detach())
    drawn = torch.stack(draws)
    exact = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    z = (drawn.mean(dim=0) - exact) / (drawn.std(dim=0) / 400**0.5)
    assert z.std().item() == pytest.approx(1, abs=0.25)
    assert z.abs().max() < 6


def test_training_with_dropout_needs_no_dense_weights():
    attention = MultiHeadAttention(8, 2, dropout=0.2)
    x = torch.randn(1, 6000, 8, requires_grad=True)
    with LargestTensor() as seen:
        attention(x, x)[0].sum().backward()
    dense = attention.num_heads * 6000**2
    assert seen.largest <= DROPPING_BUFFER < dense / 20
    assert x.grad.isfinite().all()


def test_dropped_attention_under_autocast_is_computed_in_float32():
    query, key, value = heads(9, 11, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = dropped_attention(query, key, value, 1e-9)
    assert rough.dtype == torch.bfloat16
    wide = [t.detach().float() for t in (query, key, value)]
    exact = torch.nn.functional.scaled_dot_product_attention(*wide)
    torch.testing.assert_close(rough.float(), exact, atol=0.02, rtol=0.01)
    rough.sum().backward()
    assert key.grad.dtype == torch.bfloat16


# --- layout ------------------------------------------------------------------------------------


@few
@given(n=st.integers(1, 2000))
def test_padding_repeats_the_first_tokens_and_folds_back(n):
    side = square_side(n)
    assert (side - 1) ** 2 < n <= side**2
    positions = torch.arange(float(n)).reshape(1, n, 1)
    padded = pad_to_square(positions)
    assert padded.shape == (1, side**2, 1)
    assert torch.equal(padded[:, n:], positions[:, : side**2 - n])
    assert torch.equal(pad_to_square(padded), padded)
    # A token has the mean over its appearances, scaled to the sum of all.
    scores = padded[..., 0] + 1
    folded = fold_copies(scores, n)
    torch.testing.assert_close(folded[0] / folded[0, 0], torch.arange(n) + 1.0)
    torch.testing.assert_close(folded.sum(), scores.sum())


def test_class_token_skips_the_position_convolutions():
    transformer = PadTransformer(
        8, 2, 1, class_token=True, dropout=0.0, attention_dropout=0.0
    ).eval()
    seen = []
    transformer.position.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    transformer(torch.randn(1, 1 + 9, 8))
    assert seen == [(1, 9, 8)]


# --- the whole network -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "count"),
    [(512, 21_386_248), (1024, 22_963_720), (1536, 23_750_152), (2048, 24_536_584)],
)
def test_parameter_counts(width, count):
    with torch.device("meta"):
        model = CrossFusion(encoder_width=width)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@few
@given(seed=seeds, n5=tokens, n10=tokens, n20=tokens, batch=st.integers(1, 2))
def test_output_is_a_survival_curve_with_scores(seed, n5, n10, n20, batch):
    torch.manual_seed(seed)
    model = loud(tiny(depth=2, num_bins=5))
    inputs = bags(n5, n10, n20, batch=batch)
    with torch.no_grad():
        plain, scored = model(*inputs), model(*inputs, attention=True)
    assert plain.attention is None
    assert torch.equal(plain.logits, scored.logits)
    assert torch.equal(plain.risk, scored.risk)

    assert plain.logits.shape == plain.hazards.shape == plain.survival.shape == (batch, 5)
    torch.testing.assert_close(plain.hazards, torch.sigmoid(plain.logits))
    assert (plain.survival >= 0).all()
    assert (plain.survival <= 1).all()
    assert (plain.survival.diff(dim=1) <= 0).all()
    torch.testing.assert_close(plain.risk, -plain.survival.sum(dim=1))

    scores = scored.attention
    for map_, n in ((scores.x5, n5), (scores.x10, n10), (scores.x20, n20), (scores.fused, n10)):
        assert map_.shape == (batch, n)
        assert (map_ >= 0).all()
    for map_ in (scores.x5, scores.x10, scores.x20):
        torch.testing.assert_close(map_.sum(1), torch.ones(batch), atol=1e-5, rtol=0)
    assert (scores.fused.sum(1) < 1).all()


@few
@given(seed=seeds, n5=tokens, n10=tokens, n20=tokens)
def test_order_of_5x_and_20x_tokens_does_not_matter(seed, n5, n10, n20):
    torch.manual_seed(seed)
    model = loud(tiny()).double()
    x5, x10, x20 = (x.double() for x in bags(n5, n10, n20))
    order5, order20 = torch.randperm(n5), torch.randperm(n20)
    with torch.no_grad():
        straight = model(x5, x10, x20, attention=True)
        mixed = model(x5[:, order5], x10, x20[:, order20], attention=True)
    torch.testing.assert_close(mixed.logits, straight.logits)
    torch.testing.assert_close(mixed.risk, straight.risk)
    torch.testing.assert_close(mixed.attention.x5, straight.attention.x5[:, order5])
    torch.testing.assert_close(mixed.attention.x20, straight.attention.x20[:, order20])


def test_x10_and_fused_scores_are_the_dense_ones_of_the_last_post_layer():
    model = loud(tiny(depth=2))
    seen = {}
    for name in ("transform_source", "transform_final"):
        attention = getattr(model, name).post[-1].attention

        def keep(module, args, name=name):
            x = args[0]
            split = (len(x), -1, 2, 4)
            query = module.query(x).view(split).transpose(1, 2)
            key = module.key(x).view(split).transpose(1, 2)
            seen[name] = dense_weights(query, key)

        attention.register_forward_pre_hook(keep)
    with torch.no_grad():
        scores = model(*bags(3, 7, 9, batch=2), attention=True).attention
    received = seen["transform_source"].mean(dim=(1, 2))  # (2, 9)
    torch.testing.assert_close(scores.x10, fold_copies(received, 7), atol=1e-6, rtol=0)
    row = seen["transform_final"][:, :, 0, 1:].mean(dim=1)  # (2, 9)
    torch.testing.assert_close(scores.fused, fold_copies(row, 7), atol=1e-6, rtol=0)


def test_one_token_per_scale():
    scored = loud(tiny())(*bags(1, 1, 1), attention=True)
    assert scored.logits.isfinite().all()
    assert scored.attention.x20.tolist() == [[1.0]]


def test_slides_of_a_batch_do_not_touch_each_other():
    model = loud(tiny())
    inputs = bags(4, 10, 20, batch=3)
    with torch.no_grad():
        together = model(*inputs).logits
        alone = torch.cat([model(*(x[i : i + 1] for x in inputs)).logits for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_eval_is_deterministic_and_training_is_not():
    model = tiny()
    inputs = bags(4, 10, 20)
    assert not torch.equal(model(*inputs).logits, model(*inputs).logits)
    model.eval()
    assert torch.equal(model(*inputs).logits, model(*inputs).logits)


@pytest.mark.parametrize("width", [6, 8])
def test_gradients_reach_every_parameter(width):
    torch.manual_seed(0)
    model = loud(tiny(encoder_width=width, depth=2))
    # With the scores on, to see that they do not cut the graph.
    model(*bags(4, 10, 20, width=width), attention=True).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A key's bias adds the same to all logits of a softmax, hence has no gradient but noise.
        assert name.endswith("key.bias") or parameter.grad.any(), name


def test_fresh_weights_follow_the_recipe():
    torch.manual_seed(0)
    model = CrossFusion()
    assert model.head.bias.abs().max() == 0
    assert model.project_fine.linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.cross_fine.scale_embedding.std().item() == pytest.approx(0.02, rel=0.2)
    assert model.class_token.std().item() == pytest.approx(1e-6, rel=0.2)
    conv = model.conv_processor.conv7
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 49)) ** 0.5, rel=0.05)
    assert conv.bias.abs().max() == 0
    assert model.transform_final.norm.weight.unique().item() == 1


def test_half_precision_bags_and_bfloat16_autocast():
    model = loud(tiny())
    inputs = bags(4, 10, 20)
    with torch.no_grad():
        exact = model(*inputs)
        torch.testing.assert_close(
            model(*(x.half() for x in inputs)).logits, exact.logits, atol=0.05, rtol=0.05
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(*inputs, attention=True)
    assert rough.logits.dtype == torch.bfloat16
    assert rough.survival.dtype == rough.risk.dtype == torch.float32
    assert rough.attention.x20.dtype == rough.attention.fused.dtype == torch.float32
    torch.testing.assert_close(rough.attention.x20.sum(1), torch.ones(1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    model = loud(tiny())
    inputs = bags(40, 150, 600)
    with torch.no_grad():
        here = model(*inputs, attention=True)
        there = model.cuda()(*(x.cuda() for x in inputs), attention=True)
    torch.testing.assert_close(there.logits.cpu(), here.logits, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(there.attention.x20.cpu(), here.attention.x20, atol=1e-5, rtol=0)


# --- all networks --------------------------------------------------------------------------------

ALL = pytest.mark.parametrize("name", NETWORKS.names())
#: Which attention scores networks have; others have all but "fused".
ALL_SCORED = ("x5", "x10", "x20")
SCORED = {name: ("x20",) for name in NETWORKS.names() if name.endswith("-20x")} | {
    "crossfusion": (*ALL_SCORED, "fused"),
    "crossfusion-no-conv": (*ALL_SCORED, "fused"),
    "nested-fusion": ("x20",),
    "nested-fusion-5x-10x": (),
    "mean-pool-5x": ("x5",),
}


def small(name, **sizes):
    heads = {"num_heads": 2} if "num_heads" in network_sizes(name) else {}
    wanted = {"encoder_width": 6, "embed_dim": 8} | heads | sizes
    return build_network(name, **{k: v for k, v in wanted.items() if k in network_sizes(name)})


def test_names_and_networks_agree():
    for name in NETWORKS.names():
        assert issubclass(NETWORKS[name], SurvivalNetwork)
    assert (*NETWORKS.names(), "clinical", *FUSIONS) == model_names()
    assert NETWORKS["crossfusion"] is CrossFusion


@ALL
@pytest.mark.parametrize("lengths", [(1, 1, 1), (3, 7, 29), (5, 5, 5)])
def test_every_network_gives_a_survival_curve_slide_by_slide(name, lengths):
    torch.manual_seed(0)
    model = loud(small(name, num_bins=5)).double()
    inputs = [x.double() for x in bags(*lengths, batch=3)]
    with torch.no_grad():
        plain, scored = run(model, inputs), run(model, inputs, attention=True)
        alone = [run(model, (x[i : i + 1] for x in inputs), attention=True) for i in range(3)]
    assert plain.attention is None
    assert torch.equal(plain.logits, scored.logits)
    assert plain.logits.shape == plain.survival.shape == (3, 5)
    assert plain.logits.isfinite().all()
    assert (plain.survival.diff(dim=1) <= 0).all()
    torch.testing.assert_close(plain.logits, torch.cat([one.logits for one in alone]))
    for field, n in zip(("x5", "x10", "x20", "fused"), (*lengths, lengths[1]), strict=True):
        scores = getattr(scored.attention, field, None)
        assert (scores is not None) == (field in SCORED.get(name, ALL_SCORED))
        if scores is not None:
            assert scores.shape == (3, n)
            singly = torch.cat([getattr(one.attention, field) for one in alone])
            torch.testing.assert_close(scores, singly)
            assert not scores.requires_grad


@ALL
def test_a_network_reads_the_scales_in_its_name_or_all(name):
    torch.manual_seed(0)
    model = loud(small(name))
    inputs = bags(4, 10, 20)
    with torch.no_grad():
        before = run(model, inputs).logits
        for place in range(3):
            changed = [x + 1 if i == place else x for i, x in enumerate(inputs)]
            named = [s for s in ("5x", "10x", "20x") if s in name.split("-")]
            read = not named or ("5x", "10x", "20x")[place] in named
            assert torch.equal(run(model, changed).logits, before) != read


@pytest.mark.parametrize("name", [name for name in NETWORKS.names() if name not in COXNETS])
def test_every_network_trains_all_its_weights_with_dropout_on(name):
    torch.manual_seed(0)
    model = loud(small(name, dropout=0.1)).train()
    inputs = bags(4, 10, 20, batch=8)
    output = run(model, inputs, attention=True)
    assert not torch.equal(run(model, inputs).logits, output.logits)
    output.logits.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter_name.endswith("key.bias") or parameter.grad.any(), parameter_name


@ALL
def test_every_network_takes_half_precision_and_autocast(name):
    torch.manual_seed(0)
    model = small(name).eval()
    inputs = bags(4, 10, 20)
    with torch.no_grad():
        exact = run(model, inputs)
        halved = run(model, (x.half() for x in inputs)).logits
        torch.testing.assert_close(halved, exact.logits, atol=0.05, rtol=0.05)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = run(model, inputs, attention=True)
    assert rough.survival.dtype == torch.float32
    for scores in vars(rough.attention).values() if rough.attention is not None else ():
        assert scores is None or scores.dtype == torch.float32
    torch.testing.assert_close(rough.hazards, exact.hazards, atol=0.05, rtol=0)


@ALL
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_every_network_trains_in_mixed_precision_on_a_gpu(name):
    """Other operations are float32 there than in the processor's mixed precision."""
    torch.manual_seed(0)
    inner = small(name)
    model = TrainedNetwork(inner, standardise=True, statistics=name == "nested-fusion").cuda()
    if model.statistics is not None:
        for direction in (model.statistics.left, model.statistics.right, model.statistics.rare):
            direction.normal_()
    inputs = [x.cuda() for x in bags(4, 10, 20)]
    exact = run(model.eval(), inputs)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        rough = run(model.train(), inputs)
    rough.hazards.float().log().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        rough = run(model.eval(), inputs)
    torch.testing.assert_close(rough.hazards.float(), exact.hazards, atol=0.05, rtol=0)


@ALL
def test_every_network_refuses_bags_that_do_not_fit(name):
    model = small(name)
    x5, x10, x20 = bags(4, 10, 20)
    for bad, words, scale in (
        ((x5, x10[:, :0], x20), "x10 has shape", "10x"),
        ((x5, x10, x20[:, :0]), "x20 has shape", "20x"),
        ((x5, x10, x20[..., :5]), "x20 has features of width 5, this network takes 6", "20x"),
        ((x5.repeat(2, 1, 1), x10, x20), "x10 has 1 slides, x5 has 2", "10x"),
    ):
        if scale in scales_read(model):
            with pytest.raises(TiacfError, match=re.escape(words)):
                run(model, bad)


def test_the_ablation_without_convolutions_differs_in_that_alone():
    torch.manual_seed(0)
    whole, ablated = small("crossfusion"), small("crossfusion-no-conv")
    names = {k for k in whole.state_dict() if not k.startswith("conv_processor.")}
    assert names == {k for k in ablated.state_dict() if not k.startswith("conv_processor.")}
    assert not any(isinstance(m, torch.nn.Conv3d) for m in ablated.modules())
    processor = ConcatProcessor(4, 0.5).eval()
    maps = [torch.randn(2, 9, 4) for _ in range(3)]
    expected = processor.norm(
        torch.cat(maps, dim=2) @ processor.linear.weight.T + processor.linear.bias
    )
    torch.testing.assert_close(processor(*maps), expected)


def test_scores_of_the_20x_ablation_are_the_class_tokens_row():
    model = loud(small("crossfusion-20x"))
    seen = []
    attention = model.transform_final.post[-1].attention

    def keep(module, args):
        split = (len(args[0]), -1, 2, 4)
        query = module.query(args[0]).view(split).transpose(1, 2)
        seen.append(dense_weights(query, module.key(args[0]).view(split).transpose(1, 2)))

    attention.register_forward_pre_hook(keep)
    with torch.no_grad():
        scores = run(model, bags(1, 1, 7, batch=2), attention=True).attention.x20
    row = seen[0][:, :, 0, 1:].mean(dim=1)  # (2, 9)
    torch.testing.assert_close(scores, fold_copies(row, 7), atol=1e-6, rtol=0)


def test_unknown_networks_and_sizes_are_refused_by_name():
    with pytest.raises(TiacfError, match='did you mean "transmil"') as refusal:
        build_network("trans-mil")
    assert "\n" not in str(refusal.value)
    with pytest.raises(TiacfError, match="abmil takes no num_heads and no depth") as refusal:
        build_network("abmil", num_heads=4, depth=1, embed_dim=8)
    assert "embed_dim" in str(refusal.value)
    with pytest.raises(TiacfError, match="num_bins is 0"):
        build_network("dsmil", num_bins=0)
    with pytest.raises(TiacfError, match="8 does not split into 3 heads"):
        build_network("transmil", embed_dim=8, num_heads=3)


# --- what training puts around a network -----------------------------------------------------------


def test_standardisation_is_that_of_each_scale():
    torch.manual_seed(0)
    inner = loud(small("abmil"))
    model = TrainedNetwork(inner, standardise=True).eval()
    inputs = bags(4, 10, 20, batch=2)
    with torch.no_grad():
        assert torch.equal(model(*inputs).logits, inner(*inputs).logits)  # nothing set yet
        mean, sd = torch.randn(3, 6), torch.rand(3, 6) + 0.5
        sd[1, 2] = 0  # only centred
        model.set_moments(mean, sd)
        sd[1, 2] = 1
        by_hand = [(x - m) / s for x, m, s in zip(inputs, mean, sd, strict=True)]
        ours, expected = model(*inputs, attention=True), inner(*by_hand, attention=True)
        halves = model(*(x.half() for x in inputs)).logits
    torch.testing.assert_close(ours.logits, expected.logits)
    torch.testing.assert_close(ours.attention.x5, expected.attention.x5)
    torch.testing.assert_close(halves, ours.logits, atol=0.05, rtol=0.05)
    with pytest.raises(TiacfError, match="x20 has features of width 5"):
        model(inputs[0], inputs[1], inputs[2][..., :5])


@few
@given(seed=seeds)
def test_proportional_hazards_are_those_of_the_baseline(seed):
    torch.manual_seed(seed)
    model = TrainedNetwork(loud(small("mean-pool", num_bins=1)), num_bins=3).eval()
    increments = torch.tensor([0.05, 0.0, 1.3])
    inputs = bags(4, 10, 20, batch=2)
    with torch.no_grad():
        eta = model.log_hazard(tokens_of(*inputs))
        assert model(*inputs).survival.isnan().all()  # until the baseline is set
        model.set_baseline(increments)
        output = model(*inputs, attention=True)
        torch.testing.assert_close(model.network(*inputs).logits[:, 0], eta)
    assert output.logits.shape == (2, 3)
    cumulative = (increments * eta.exp()[:, None]).cumsum(dim=1)
    torch.testing.assert_close(output.survival, torch.exp(-cumulative), atol=1e-6, rtol=1e-5)
    assert output.attention.x20.shape == (2, 20)


def test_proportional_logits_are_exact_and_have_gradients_where_hazards_are_extreme():
    eta = torch.tensor([[-60.0], [-12.0], [0.0], [4.0], [90.0]], requires_grad=True)
    increments = torch.tensor([0.0, 1e-7, 0.3, 2.0])
    logits = proportional_logits(eta, increments)
    assert logits.isfinite().all()
    x = (increments.double() * eta.double().exp())[:4]
    exact = x + torch.log(-torch.expm1(-x))
    within = (x > 1e-34) & (x < 1e8)
    torch.testing.assert_close(logits[:4].double()[within], exact[within], atol=1e-5, rtol=1e-5)
    hazards = torch.sigmoid(logits)
    assert (hazards[:, 0] < 1e-30).all()
    assert (hazards[4, 2:] == 1).all()
    (gradient,) = torch.autograd.grad(hazards.sum(), eta)
    assert gradient.isfinite().all()
    # d h / d eta = x exp(-x)
    expected = (x * torch.exp(-x)).sum(dim=1, keepdim=True)
    torch.testing.assert_close(gradient[:4].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_wrapped_network_keeps_all_in_its_state_dict():
    torch.manual_seed(0)
    model = TrainedNetwork(small("transmil", num_bins=1), standardise=True, num_bins=4).eval()
    model.set_moments(torch.randn(3, 6), torch.rand(3, 6) + 0.5)
    model.set_baseline(torch.rand(4))
    again = TrainedNetwork(small("transmil", num_bins=1), standardise=True, num_bins=4).eval()
    again.load_state_dict(model.state_dict())
    inputs = bags(4, 10, 20)
    with torch.no_grad():
        assert torch.equal(again(*inputs).logits, model(*inputs).logits)
    assert {"mean", "sd", "increments"} < set(model.state_dict())
    assert (model.encoder_width, model.num_bins) == (6, 4)


def test_what_does_not_fit_the_wrapper_is_refused():
    with pytest.raises(TiacfError, match="the network has 4 bins: build it with num_bins=1"):
        TrainedNetwork(small("abmil"), num_bins=4)
    plain = TrainedNetwork(small("abmil"), standardise=True)
    with pytest.raises(TiacfError, match="without proportional hazards"):
        plain.set_baseline(torch.ones(4))
    with pytest.raises(TiacfError, match="without proportional hazards"):
        plain.log_hazard(tokens_of(*bags(1, 1, 1)))
    with pytest.raises(TiacfError, match=r"mean has shape \(6,\): give \(3, 6\)"):
        plain.set_moments(torch.zeros(6), torch.ones(3, 6))
    with pytest.raises(TiacfError, match="sd holds values"):
        plain.set_moments(torch.zeros(3, 6), -torch.ones(3, 6))
    cox = TrainedNetwork(small("abmil", num_bins=1), num_bins=4)
    with pytest.raises(TiacfError, match="without standardisation"):
        cox.set_moments(torch.zeros(3, 6), torch.ones(3, 6))
    with pytest.raises(TiacfError, match="3 increments for 4 time bins"):
        cox.set_baseline(torch.ones(3))
    for bad in (-1.0, torch.nan, torch.inf):
        with pytest.raises(TiacfError, match="0 or more and finite"):
            cox.set_baseline(torch.tensor([1, 1, 1, bad]))


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda a, b, c: (a, b[:, :0], c), "x10 has shape (2, 0, 6)"),
        (lambda a, b, c: (a[:0], b[:0], c[:0]), "x5 has shape (0, 4, 6)"),
        (lambda a, b, c: (a, b, c[0]), "x20 has shape (20, 6)"),
        (lambda a, b, c: (a, b, c[..., :5]), "x20 has features of width 5"),
        (lambda a, b, c: (a, b[:1], c), "x10 has 1 slides, x5 has 2"),
        (lambda a, b, c: (a.long(), b, c), "x5 holds torch.int64"),
    ],
)
def test_bags_that_do_not_fit_are_refused_by_name(spoil, words):
    with pytest.raises(TiacfError) as refusal:
        tiny()(*spoil(*bags(4, 10, 20, batch=2)))
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"layout": "tissue"}, "layout 'tissue'"),
        ({"num_heads": 3}, "3 heads"),
        ({"num_heads": 1, "embed_dim": 7}, "odd"),
        ({"depth": 0}, "depth is 0"),
        ({"num_bins": -1}, "num_bins is -1"),
    ],
)
def test_sizes_of_no_network_are_refused(sizes, words):
    with pytest.raises(TiacfError, match=words) as refusal:
        tiny(**sizes)
    assert "\n" not in str(refusal.value)


def test_the_room_imports_torch_only():
    allowed = sys.stdlib_module_names | {"torch", "tiacrossfusion"}
    for source in Path(networks.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {name.name.split(".")[0] for name in node.names} <= allowed, source
            elif isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in allowed, source
