"""The baselines against their papers' equations, and bundles of all networks through to the files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from slide_tokens import run

from tiacrossfusion.bags.bag import FeatureBag, Provenance, ScaleFeatures
from tiacrossfusion.cli import main
from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.inference.slide import predict_stored
from tiacrossfusion.models.bundle import load_bundle, save_bundle
from tiacrossfusion.models.config import Architecture
from tiacrossfusion.models.network import describe_network, network_of
from tiacrossfusion.networks.calling import call_network, scales_read
from tiacrossfusion.networks.layout import fold_copies, pad_to_square
from tiacrossfusion.networks.nystrom_attention import NystromAttention, pseudo_inverse
from tiacrossfusion.networks.registry import NETWORKS, build_network, network_sizes
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.outputs.annotation_store import open_annotation_store
from tiacrossfusion.outputs.files import output_suffixes, write_outputs
from tiacrossfusion.outputs.writers import WRITERS
from tiacrossfusion.slides.spec import CELLS_20X, SCALES

few = settings(max_examples=15, deadline=None)


def network(name, **sizes):
    """A small network in eval mode with weights large enough for every path to matter."""
    torch.manual_seed(0)
    model = build_network(name, **{"encoder_width": 6, "embed_dim": 8, "num_bins": 3} | sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model.double().eval()


def bags(n5=4, n10=10, n20=21):
    return [torch.randn(2, n, 6, dtype=torch.float64) for n in (n5, n10, n20)]


def weights(model):
    """All parameters as arrays, under their names with dots as underscores."""
    return {name.replace(".", "_"): w.detach().numpy() for name, w in model.named_parameters()}


def embedded(w, slide, scales):
    """Embedded tokens of one slide, written out token by token."""
    tokens = []
    for place, bag in enumerate(slide[-scales:]):
        for x in bag.numpy():
            h = w["embed_project_weight"] @ x + w["embed_project_bias"]
            tokens.append(np.maximum(h + w["embed_scale_embedding"][place], 0))
    return np.array(tokens)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def check(model, logits_of):
    """Compare logits and scores with those written out for each slide: `logits, weights of tokens`."""
    inputs = bags()
    scales = len(model.scales)
    with torch.no_grad():
        output = run(model, inputs, attention=True)
    w = weights(model)
    for b in range(2):
        slide = [x[b] for x in inputs]
        logits, scores = logits_of(w, embedded(w, slide, scales), [len(x) for x in slide[-scales:]])
        np.testing.assert_allclose(output.logits[b].numpy(), logits, rtol=1e-9, atol=1e-9)
        given_back = [getattr(output.attention, f"x{s[:-1]}")[b] for s in model.scales]
        np.testing.assert_allclose(torch.cat(given_back).numpy(), scores, rtol=1e-9, atol=1e-12)


# --- equations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["abmil", "abmil-20x"])
def test_abmil_is_gated_attention(name):
    def by_hand(w, tokens, _):
        scores = []
        for h in tokens:
            content = np.tanh(w["content_weight"] @ h + w["content_bias"])
            gate = 1 / (1 + np.exp(-(w["gate_weight"] @ h + w["gate_bias"])))
            scores.append(w["score_weight"][0] @ (content * gate))
        a = softmax(np.array(scores))
        return w["head_weight"] @ (a @ tokens) + w["head_bias"], a

    check(network(name), by_hand)


@pytest.mark.parametrize("name", ["dsmil", "dsmil-20x"])
def test_dsmil_has_a_critical_token_a_bin_and_attends_to_those_like_it(name):
    def by_hand(w, tokens, _):
        instance = tokens @ w["instance_weight"].T + w["instance_bias"]  # (N, K)
        query = tokens @ w["query_weight"].T + w["query_bias"]  # (N, d)
        value = tokens @ w["value_weight"].T + w["value_bias"]  # (N, D)
        most, attention, bag = [], [], []
        for k in range(3):
            critical = int(np.argmax(instance[:, k]))
            u = softmax(query @ query[critical] / np.sqrt(query.shape[1]))
            most.append(instance[critical, k])
            attention.append(u)
            bag.append(u @ value)
        aggregated = w["head_weight"] @ np.concatenate(bag) + w["head_bias"]
        return (np.array(most) + aggregated) / 2, np.mean(attention, axis=0)

    check(network(name), by_hand)


@pytest.mark.parametrize("name", ["mean-pool", "mean-pool-20x"])
def test_mean_pooling_is_an_mlp_on_the_mean_token_of_each_scale(name):
    def by_hand(w, tokens, lengths):
        parts = np.split(tokens, np.cumsum(lengths)[:-1])
        means = np.concatenate([part.mean(axis=0) for part in parts])
        hidden = np.maximum(w["hidden_weight"] @ means + w["hidden_bias"], 0)
        uniform = np.concatenate([np.full(n, 1 / n) for n in lengths])
        return w["head_weight"] @ hidden + w["head_bias"], uniform

    check(network(name), by_hand)


@pytest.mark.parametrize("name", ["abmil", "dsmil", "mean-pool"])
def test_order_of_tokens_does_not_matter_where_tokens_are_single(name):
    model = network(name)
    inputs = bags()
    orders = [torch.randperm(x.shape[1]) for x in inputs]
    with torch.no_grad():
        straight = model(*inputs, attention=True)
        mixed = model(*(x[:, o] for x, o in zip(inputs, orders, strict=True)), attention=True)
    torch.testing.assert_close(mixed.logits, straight.logits)
    for field, order in zip(("x5", "x10", "x20"), orders, strict=True):
        expected = getattr(straight.attention, field)[:, order]
        torch.testing.assert_close(getattr(mixed.attention, field), expected)


@pytest.mark.parametrize("name", ["abmil", "dsmil"])
def test_weights_sum_to_1_over_all_scales_together(name):
    with torch.no_grad():
        scores = network(name)(*bags(), attention=True).attention
    total = scores.x5.sum(1) + scores.x10.sum(1) + scores.x20.sum(1)
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64))


def test_the_scales_are_told_apart_by_their_embedding():
    model = network("mean-pool")
    with torch.no_grad():
        same = torch.randn(1, 5, 6, dtype=torch.float64)
        x5, x10, x20 = model.embed(same, same, same)
        assert not torch.equal(x5, x10)
        assert not torch.equal(x10, x20)
        model.embed.scale_embedding.zero_()
        x5, x10, x20 = model.embed(same, same, same)
        assert torch.equal(x5, x20)


def test_fresh_weights_keep_the_variance_and_mark_the_scales():
    torch.manual_seed(0)
    model = build_network("abmil")
    assert model.embed.project.weight.std().item() == pytest.approx((2 / 1536) ** 0.5, rel=0.02)
    assert model.embed.scale_embedding.std().item() == pytest.approx(0.5, rel=0.1)
    assert model.head.bias.abs().max() == 0


# --- Nystrom attention and TransMIL ----------------------------------------------------------------


@few
@given(seed=st.integers(0, 2**16), m=st.integers(1, 12))
def test_the_iteration_finds_the_inverse_of_softmax_matrices(seed, m):
    torch.manual_seed(seed)
    logits = torch.randn(3, 2, m, m, dtype=torch.float64) + 4 * torch.eye(m, dtype=torch.float64)
    matrix = torch.softmax(logits, dim=-1)
    expected = torch.linalg.pinv(matrix)
    torch.testing.assert_close(pseudo_inverse(matrix, 40), expected, atol=1e-6, rtol=1e-6)
    # Each matrix by itself, whatever stands beside it.
    alone = torch.stack([pseudo_inverse(one) for one in matrix])
    torch.testing.assert_close(pseudo_inverse(matrix), alone)


def attention_by_hand(layer, tokens, weights_of):
    """One layer on (N, D) with the attention matrix (N, N) of each head that `weights_of(q, k)` gives."""
    query, key, value = (tokens @ layer.project.weight.T).chunk(3, dim=1)
    width = query.shape[1] // layer.num_heads
    heads, rows = [], []
    for h in range(layer.num_heads):
        part = slice(h * width, (h + 1) * width)
        attention = weights_of(query[:, part] * width**-0.5, key[:, part])
        rows.append(attention[0])
        kernel = layer.residual.weight[h, 0, :, 0]
        padded = torch.nn.functional.pad(value[:, part], (0, 0, 16, 16))
        residual = torch.stack([kernel @ padded[n : n + 33] for n in range(len(tokens))])
        heads.append(attention @ value[:, part] + residual)
    out = torch.cat(heads, dim=1) @ layer.out.weight.T + layer.out.bias
    return out, torch.stack(rows).mean(dim=0)


def nystrom(landmarks):
    def weights_of(query, key):
        def means(x):
            return torch.stack([part.mean(dim=0) for part in x.chunk(landmarks)])

        few_queries, few_keys = means(query), means(key)
        a = torch.softmax(few_queries @ few_keys.T, dim=1)
        inverse = pseudo_inverse(a)
        to_few = torch.softmax(query @ few_keys.T, dim=1)
        return to_few @ inverse @ torch.softmax(few_queries @ key.T, dim=1)

    return weights_of


def test_nystrom_attention_is_that_of_the_paper():
    torch.manual_seed(0)
    layer = NystromAttention(8, 2, landmarks=5, dropout=0.5).double().eval()
    tokens = torch.randn(3, 40, 8, dtype=torch.float64)
    with torch.no_grad():
        ours, row = layer(tokens, attention=True)
        plain, none = layer(tokens)
        expected = [attention_by_hand(layer, one, nystrom(5)) for one in tokens]
    assert none is None
    assert torch.equal(ours, plain)
    torch.testing.assert_close(ours, torch.stack([out for out, _ in expected]))
    torch.testing.assert_close(row, torch.stack([row for _, row in expected]))


def test_with_a_landmark_for_each_token_it_nears_exact_attention(monkeypatch):
    from tiacrossfusion.networks import nystrom_attention

    torch.manual_seed(0)
    layer = NystromAttention(8, 2, landmarks=64, dropout=0.0).double().eval()
    tokens = 3 * torch.randn(1, 12, 8, dtype=torch.float64)

    def exact(query, key):
        return torch.softmax(query @ key.T, dim=1)

    with torch.no_grad():
        expected, row = attention_by_hand(layer, tokens[0], exact)
        monkeypatch.setattr(nystrom_attention, "pseudo_inverse", lambda a: pseudo_inverse(a, 60))
        ours, ours_row = layer(tokens, attention=True)
    torch.testing.assert_close(ours[0], expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(ours_row[0], row, atol=1e-4, rtol=1e-3)


def test_segments_that_do_not_divide_the_tokens_average_tokens_only():
    layer = NystromAttention(2, 1, landmarks=4, dropout=0.0)
    ones = torch.ones(1, 1, 11, 2)
    torch.testing.assert_close(layer._segment_means(ones), torch.ones(1, 1, 4, 2))


@pytest.mark.parametrize("name", ["transmil", "transmil-20x"])
def test_transmil_is_two_layers_around_the_pyramid(name):
    # 35 or 21 tokens make maps of 36 and 25; with the class token 37 and 26, and 4 landmarks: segments
    # of unequal length, which the layer itself settles.
    model = network(name, num_heads=2)
    inputs = bags()
    with torch.no_grad():
        output = run(model, inputs, attention=True)
        scales = model.embed(*inputs[-len(model.scales) :])
        sequence = torch.cat(scales, dim=1)
        squared = pad_to_square(sequence)
        z = torch.cat([model.class_token.expand(2, 1, 8), squared], dim=1)
        z = z + model.attention1(model.norm1(z))[0]
        side = int(squared.shape[1] ** 0.5)
        grid = z[:, 1:].transpose(1, 2).reshape(2, 8, side, side)
        position = model.position
        grid = grid + position.conv7(grid) + position.conv5(grid) + position.conv3(grid)
        z = torch.cat([z[:, :1], grid.reshape(2, 8, -1).transpose(1, 2)], dim=1)
        attended, row = model.attention2(model.norm2(z), attention=True)
        logits = model.head(model.norm(z + attended)[:, 0])
        folded = fold_copies(row[:, 1:], sequence.shape[1])
    torch.testing.assert_close(output.logits, logits)
    scores = [getattr(output.attention, f"x{s[:-1]}") for s in model.scales]
    torch.testing.assert_close(torch.cat(scores, dim=1), folded)


# --- architectures and bundles -----------------------------------------------------------------

HEADED = {"num_heads": 2, "depth": 1, "layout": "square"}


def architecture(name, width=6, **flags):
    sizes = HEADED | {"embed_dim": 8}
    return describe_network(name, encoder_width=width, num_bins=4, sizes=sizes, **flags)


@pytest.mark.parametrize("name", NETWORKS.names())
def test_an_architecture_takes_what_its_network_takes(name):
    described = architecture(name)
    built = network_of(described, dropout=0.0, attention_dropout=0.0)
    assert (built.encoder_width, built.num_bins) == (6, 4)
    inputs = [torch.randn(1, n, 6) for n in (4, 10, 20)]
    # In training, without dropout.
    assert torch.equal(run(built, inputs).logits, run(built, inputs).logits)
    taken = network_sizes(name)
    for size in HEADED:
        sizes = {key: value for key, value in described.sizes.items() if key != size}
        wrong = sizes if size in taken else sizes | {size: HEADED[size]}
        words = f"{name} needs {size}" if size in taken else f"{name} takes no {size}"
        with pytest.raises(UsageError, match=words):
            network_of(described.model_copy(update={"sizes": wrong}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_heads": 2.5}, r"sizes\.num_heads: .*integer"),
        ({"depth": "deep"}, r"sizes\.depth: .*integer"),
        ({"layout": "tissue"}, r"sizes\.layout: .*'square'"),
        ({"depth": None}, "crossfusion needs depth"),
        ({"num_bins": 4}, "takes no num_bins"),
        ({"depth": 65}, "depth is 65: give 1 to 64"),
    ],
)
def test_sizes_are_checked_against_the_constructor(changes, words):
    described = architecture("crossfusion")
    wrong = described.model_copy(update={"sizes": described.sizes | changes})
    with pytest.raises(UsageError, match=words) as refusal:
        network_of(wrong)
    assert "\n" not in str(refusal.value)


def test_architectures_name_networks_that_are_there():
    given = {"name": "abmil", "encoder_width": 6, "num_bins": 4}
    assert Architecture.model_validate(given).package is None
    with pytest.raises(
        ValidationError, match=r"name resnet: unknown network; .*known are crossfusion"
    ):
        Architecture.model_validate(given | {"name": "resnet"})
    mine = Architecture.model_validate(given | {"name": "mine", "package": "my_file.py"})
    with pytest.raises(TiacfError, match=r"mine: comes from my_file\.py, which is not loaded"):
        network_of(mine)


@pytest.mark.parametrize("proportional", [False, True])
@pytest.mark.parametrize("standardise", [False, True])
def test_architectures_wrap_their_network_as_they_say(standardise, proportional):
    flags = {"standardise": standardise, "proportional_hazards": proportional}
    built = network_of(architecture("abmil", **flags))
    assert isinstance(built, TrainedNetwork) == (standardise or proportional)
    state = built.state_dict()
    assert ("mean" in state, "increments" in state) == (standardise, proportional)
    assert built.num_bins == 4
    head = next(tensor for key, tensor in state.items() if key.endswith("head.bias"))
    assert len(head) == (1 if proportional else 4)


def lattice_bag(bundle, name="a slide.svs", side=8):
    """A bag of side x side 20x patches of noise that fits the bundle."""
    rng = np.random.default_rng(0)
    cells = np.stack(np.meshgrid(range(side), range(side)), axis=-1).reshape(-1, 2)
    scales = {}
    for scale in SCALES:
        cell = CELLS_20X[scale]
        grid = np.unique(cells // cell, axis=0).astype(np.int32)
        bounds = np.concatenate([grid, grid + 1], axis=1).astype(np.int64) * 256 * cell
        features = rng.normal(size=(len(grid), bundle.config.encoder.width)).astype(np.float16)
        scales[scale] = ScaleFeatures(features, bounds, grid)
    provenance = Provenance(
        slide=name,
        slide_size=1,
        slide_hash="2",
        dimensions=(256 * side, 256 * side),
        mpp=(0.5, 0.5),
        power=20,
        offset=(0, 0),
        mask="otsu",
        sampling=bundle.config.sampling,
        encoder=bundle.config.encoder,
        versions={},
    )
    return FeatureBag(scales, provenance)


def write_bundle(demo_bundle, folder, name, **flags):
    """A bundle of fresh weights, with what training would have set."""
    torch.manual_seed(0)
    width = demo_bundle.config.encoder.width
    named = architecture(name, width, **flags)
    model = network_of(named)
    if named.standardise:
        model.set_moments(torch.randn(3, width), torch.rand(3, width) + 0.5)
    if named.proportional_hazards:
        model.set_baseline(torch.rand(4))
    save_bundle(folder, demo_bundle.config.model_copy(update={"architecture": named}), model)
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS.names())
def test_a_bundle_of_any_network_predicts_and_writes_its_scores(demo_bundle, tmp_path, name):
    flags = {"standardise": True, "proportional_hazards": name.startswith("abmil")}
    trained = write_bundle(demo_bundle, tmp_path / "bundle", name, **flags)
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.config.architecture.name == name
    bag = lattice_bag(bundle)
    result = predict_stored(bag, bundle)
    prediction = result.prediction
    with torch.no_grad():
        output = call_network(trained, SlideTokens.from_bag(bag), attention=True)
    assert prediction.risk == pytest.approx(float(output.risk[0]), abs=1e-6)
    stages = {
        "mean-pool-5x": {"5x"},
        "nested-fusion-5x-10x": set(),
        "nested-fusion": {"20x"},
    }.get(name, {"20x"} if name.endswith("20x") else {"5x", "10x", "20x"})
    if name in ("crossfusion", "crossfusion-no-conv"):
        stages = stages | {"fused"}
    assert set(prediction.attention) == stages
    for stage in stages & {"5x", "10x", "20x"}:
        scores = getattr(output.attention, f"x{stage[:-1]}")
        np.testing.assert_array_equal(prediction.attention[stage], scores[0].double())
    overview = np.full((200, 200, 3), 230, np.uint8)
    result = replace(result, overview=overview)
    for output_type in WRITERS.names():
        folder = tmp_path / output_type
        folder.mkdir()
        write_outputs(folder, "slide", output_type, result)
        suffixes = output_suffixes(output_type)
        assert {p.name for p in folder.iterdir()} == {f"slide{suffix}" for suffix in suffixes}

    rolled = {"rolled"} if name.startswith("crossfusion") else set()
    documents = {
        scale: json.loads((tmp_path / "qupath" / f"slide{ending}").read_text())
        for scale, ending in (("20x", ".geojson"), ("10x", "_10x.geojson"), ("5x", "_5x.geojson"))
    }
    for scale, document in documents.items():
        total = "Attribution total" + (" mean" if scale != "20x" else "")
        assert document["tiacrossfusion"]["colour"].startswith(f"{total}, blue -")
        features = [feature["properties"] for feature in document["features"]]
        tiles = [p for p in features if p["objectType"] == "tile"]
        assert len(tiles) == len(bag.scales[scale])
        for tile in tiles:
            named = {m.split()[1] for m in tile["measurements"] if m.startswith("Attention")}
            assert named == stages | rolled
            adds = {m.split()[1] for m in tile["measurements"] if m.startswith("Attribution")}
            assert adds >= {*scales_read(trained), "total"}
            assert total in tile["measurements"]
        for hotspot in (p["measurements"] for p in features if p["objectType"] == "annotation"):
            assert "Attribution total mean" in hotspot

    store = open_annotation_store(tmp_path / "annotationstore" / "slide.db")
    tile = store["20x_0_0"].properties
    assert {key for key in tile if key.startswith("Attention")} == {
        f"Attention {s} percentile" for s in stages | rolled
    }
    store.close()


def test_a_bundle_without_its_baseline_is_refused(demo_bundle, tmp_path):
    named = architecture("abmil", demo_bundle.config.encoder.width, proportional_hazards=True)
    config = demo_bundle.config.model_copy(update={"architecture": named})
    save_bundle(tmp_path / "bundle", config, network_of(named))
    with pytest.raises(TiacfError, match="the weights are not finite"):
        load_bundle(tmp_path / "bundle")


def test_tiacf_predict_takes_a_baseline(demo_bundle, simulated, tmp_path):
    write_bundle(demo_bundle, tmp_path / "bundle", "transmil-20x", standardise=True)
    arguments = [
        "predict",
        "--img-input",
        str(simulated / "low.svs"),
        "--output-path",
        str(tmp_path / "out"),
        "--model",
        str(tmp_path / "bundle"),
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    with (tmp_path / "out" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["status"] == "ok"
    text = Path(tmp_path / "out" / "low.geojson").read_text()
    assert '"Attention 20x"' in text
    assert '"Attention 10x' not in text
    assert '"Attention fused' not in text
