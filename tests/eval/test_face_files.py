"""Judges of identity that a user gives, through tiny files in the exact form of the real ones."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from eval.judges.control import control_people
from eval.judges.face_files import AdaFace, ArcFace, adaface_pixels
from eval.judges.given import GivenJudges
from eval.judges.ir_net import IRNet, load_ir_net
from eval.suite import load_suite
from tests.eval.face_networks import save_channel_means

RED = np.full((112, 112, 3), (255, 51, 0), np.uint8)  # RGB


def _unit(values):
    return np.array(values) / np.linalg.norm(values)


def test_adaface_is_fed_bgr_from_minus_one_to_one(tmp_path):
    judge = AdaFace(str(save_channel_means(tmp_path / "ada.onnx", norm=True)))
    (found,) = judge.embed([RED])
    expected = [(x / 255 - 0.5) / 0.5 for x in (0, 51, 255)]
    assert found == pytest.approx(_unit(expected), abs=1e-4)  # a sum of 12,544 in float32
    assert judge.revision.startswith("adaface-ada-")
    pixels = adaface_pixels(np.arange(112 * 112 * 3, dtype=np.uint8).reshape(112, 112, 3))
    assert pixels.shape == (1, 3, 112, 112)
    assert pixels[0, 2, 0, 1] == pytest.approx((3 / 255 - 0.5) / 0.5)  # red of the second pixel


def test_arcface_is_fed_rgb(tmp_path):
    judge = ArcFace(str(save_channel_means(tmp_path / "arc.onnx")))
    found = judge.embed([RED, RED[:, :, ::-1].copy()])
    values = [(x - 127.5) / 127.5 for x in (255, 51, 0)]
    assert found == pytest.approx(np.stack([_unit(values), _unit(values[::-1])]), abs=1e-5)


@pytest.fixture(scope="module")
def ir_file(tmp_path_factory):
    """A file of the authors' names with a prefix, two stages of two units, random throughout."""
    torch.manual_seed(0)
    net = IRNet([(8, 8), (8, 8), (8, 16), (16, 16)], 8, 28, 12)
    state = net.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            # Variances are positive; nothing stays at its beginning.
            state[name] = torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value)
    folder = tmp_path_factory.mktemp("ir")
    paths = {}
    # As the authors' two repositories name them: AdaFace, and CVLFace, which followed it.
    for kind, prefix in (("adaface", "model."), ("cvlface", "model.net.")):
        paths[kind] = folder / f"{kind}.safetensors"
        save_file({f"{prefix}{name}": value for name, value in state.items()}, paths[kind])
    return paths, state


def test_the_ir_network_is_its_definition(ir_file):
    paths, w = ir_file

    def norm(x, name, affine=True):
        shape = [1, -1] + [1] * (x.ndim - 2)
        mean, var = (w[f"{name}.running_{part}"].reshape(shape) for part in ("mean", "var"))
        x = (x - mean) / torch.sqrt(var + 1e-5)
        if affine:
            x = x * w[f"{name}.weight"].reshape(shape) + w[f"{name}.bias"].reshape(shape)
        return x

    def prelu(x, name):
        slope = w[f"{name}.weight"].reshape(1, -1, 1, 1)
        return torch.where(x > 0, x, slope * x)

    pixels = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    x = functional.conv2d(pixels, w["input_layer.0.weight"], padding=1)
    x = prelu(norm(x, "input_layer.1"), "input_layer.2")
    for number, stride in enumerate((2, 1, 2, 1)):
        body = f"body.{number}"
        shortcut = x[:, :, ::stride, ::stride]
        if f"{body}.shortcut_layer.0.weight" in w:
            shortcut = functional.conv2d(x, w[f"{body}.shortcut_layer.0.weight"], stride=stride)
            shortcut = norm(shortcut, f"{body}.shortcut_layer.1")
        y = functional.conv2d(
            norm(x, f"{body}.res_layer.0"), w[f"{body}.res_layer.1.weight"], padding=1
        )
        y = prelu(norm(y, f"{body}.res_layer.2"), f"{body}.res_layer.3")
        y = functional.conv2d(y, w[f"{body}.res_layer.4.weight"], stride=stride, padding=1)
        x = norm(y, f"{body}.res_layer.5") + shortcut
    x = norm(x, "output_layer.0").flatten(1)
    x = x @ w["output_layer.3.weight"].T + w["output_layer.3.bias"]
    expected = norm(x, "output_layer.4", affine=False).numpy()
    run, prefix = load_ir_net(paths["cvlface"])
    assert prefix == "model.net."
    found = run(pixels.numpy())
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-2 * np.abs(expected).max())


def test_adaface_reads_safetensors(ir_file):
    paths, _ = ir_file
    judge = AdaFace(str(paths["adaface"]))
    features = judge.embed([RED, control_people()[0][0]])
    assert features.shape == (2, 12)
    assert np.linalg.norm(features, axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_the_order_of_channels_is_that_of_the_file_or_the_one_named(ir_file):
    """AdaFace's own files read BGR; CVLFace's, of the same networks trained anew, read RGB."""
    paths, _ = ir_file
    face = control_people()[0][0]
    turned = face[:, :, ::-1].copy()
    bgr, rgb = (AdaFace(str(paths[kind])) for kind in ("adaface", "cvlface"))
    named = AdaFace(str(paths["cvlface"]), channels="bgr")
    assert bgr.embed([face]) == pytest.approx(rgb.embed([turned]), abs=1e-6)
    assert named.embed([face]) == pytest.approx(bgr.embed([face]), abs=1e-6)
    assert np.abs(bgr.embed([face]) - rgb.embed([face])).max() > 0.01
    assert [one.revision[-4:] for one in (bgr, rgb, named)] == ["-bgr", "-rgb", "-bgr"]


@pytest.mark.parametrize(
    ("layers", "units"), [(18, (2, 2, 2, 2)), (50, (3, 4, 14, 3)), (101, (3, 13, 30, 3))]
)
def test_the_ir_networks_have_the_names_and_shapes_of_the_published_files(layers, units):
    """Names and shapes as the authors' IR_18, IR_50 and IR_101 have them."""
    widths, last = [], 64
    for out, count in zip((64, 128, 256, 512), units, strict=True):
        widths += [(last, out), *[(out, out)] * (count - 1)]
        last = out

    def norm(name, width, affine=True):
        found = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
        found |= {f"{name}.num_batches_tracked": ()}
        return found | ({f"{name}.weight": (width,), f"{name}.bias": (width,)} if affine else {})

    expected = {"input_layer.0.weight": (64, 3, 3, 3), "input_layer.2.weight": (64,)}
    expected |= norm("input_layer.1", 64)
    for number, (width, out) in enumerate(widths):
        unit = f"body.{number}.res_layer"
        expected |= norm(f"{unit}.0", width) | norm(f"{unit}.2", out) | norm(f"{unit}.5", out)
        expected |= {f"{unit}.1.weight": (out, width, 3, 3), f"{unit}.3.weight": (out,)}
        expected |= {f"{unit}.4.weight": (out, out, 3, 3)}
        if width != out:
            short = f"body.{number}.shortcut_layer"
            expected |= {f"{short}.0.weight": (out, width, 1, 1)} | norm(f"{short}.1", out)
    expected |= norm("output_layer.0", 512) | norm("output_layer.4", 512, affine=False)
    expected |= {"output_layer.3.weight": (512, 512 * 49), "output_layer.3.bias": (512,)}
    with torch.device("meta"):
        state = IRNet(widths, 64, 7, 512).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected
    assert len(widths) == sum(units) == {18: 8, 50: 24, 101: 49}[layers]


@pytest.mark.parametrize(
    ("judge", "name", "content", "message"),
    [
        (AdaFace, "a.ckpt", b"x", r"a file that ends in .onnx or .safetensors"),
        (AdaFace, "a.onnx", None, "which does not exist"),
        (AdaFace, "a.onnx", b"no network", "cannot be read as its network"),
        (AdaFace, "a.safetensors", b"no network", "cannot be read as its network"),
        (ArcFace, "a.onnx", b"no network", "cannot be read as its network"),
        (ArcFace, "pack", None, "folder .* does not exist"),
    ],
)
def test_what_is_no_network_is_refused_in_a_sentence(tmp_path, judge, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        judge(str(path))


def test_a_network_of_another_size_is_refused(tmp_path):
    path = save_channel_means(tmp_path / "ada.onnx", side=160)
    with pytest.raises(
        ValueError, match=r"input \['N', 3, 160, 160\], allowed: one of \(N, 3, 112"
    ):
        AdaFace(str(path))


def test_safetensors_of_another_network_are_refused(tmp_path):
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"0 weights called input_layer\.0\.weight, allowed: 1"):
        AdaFace(str(tmp_path / "other.safetensors"))


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """(suite, scores) of two control portraits enlarged, the second against somebody else."""
    folder = tmp_path_factory.mktemp("judges")
    given = GivenJudges(
        {
            "arcface": str(save_channel_means(folder / "arc.onnx")),
            "adaface": str(save_channel_means(folder / "ada.onnx", norm=True)),
        },
        conditions="antelopev2",
    )
    suite = load_suite(
        ["identity_facenet", "identity_arcface", "identity_adaface", "identity_mean"],
        judges=given,
    )
    people = control_people()
    picture = np.kron(people[0][0], np.ones((2, 2, 1), np.uint8))
    blank = np.zeros((64, 64, 3), np.uint8)
    found = suite.score(
        [picture, picture, blank],
        ["x"] * 3,
        [[people[0][0]], [people[1][0]]] * 1 + [[people[0][0]]],
    )
    return suite, found


def test_the_mean_is_of_every_network_and_unknown_without_a_face(judged):
    suite, found = judged
    three = [found[f"identity_{name}"] for name in ("facenet", "arcface", "adaface")]
    assert found["identity_mean"][:2] == pytest.approx(np.mean(three, axis=0)[:2], abs=1e-6)
    assert np.isnan([values[2] for values in found.values()]).all()
    assert suite.metrics["identity_mean"].network == "3 networks"


def test_each_column_has_the_revision_of_its_file(judged):
    suite, _ = judged
    assert suite.metrics["identity_adaface"].revision.startswith("adaface-ada-")
    assert suite.metrics["identity_arcface"].revision.startswith("arcface-arc-")
    parts = suite.metrics["identity_mean"].revision
    assert all(suite.metrics[f"identity_{n}"].revision in parts for n in ("facenet", "adaface"))


def test_a_network_whose_kind_conditions_is_marked(judged):
    notes = {name: info.note for name, info in judged[0].metrics.items()}
    assert "CONDITION on an ArcFace network (the pack antelopev2)" in notes["identity_arcface"]
    assert "CONDITION" in notes["identity_mean"]
    assert "CONDITION" not in notes["identity_adaface"]


def test_the_warning_is_logged_too(tmp_path, caplog):
    given = GivenJudges({"arcface": str(save_channel_means(tmp_path / "a.onnx"))}, "antelopev2")
    with caplog.at_level(logging.WARNING, "eval.suite"):
        load_suite(["identity_arcface"], judges=given)
    assert "identity_arcface: " in caplog.text
    assert "no judge" in caplog.text


@pytest.mark.parametrize(
    ("names", "judges", "message"),
    [
        (["identity_adaface"], {}, "metric identity_adaface needs the judge adaface, which is not"),
        (["identity_mean"], {}, "metric identity_mean needs the judge arcface"),
        (["vlm"], {}, "metric vlm_prompt needs the judge vlm"),
        (
            ["face_found"],
            {"curricularface": "x"},
            "judge is 'curricularface', allowed: arcface, ad",
        ),
    ],
)
def test_a_metric_without_its_judge_is_refused(names, judges, message):
    with pytest.raises(ValueError, match=message):
        load_suite(names, judges=GivenJudges(judges))
