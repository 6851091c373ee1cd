"""Tests of the reference's checkpoints as PyTorch writes and reads them."""

import argparse
import collections
import fractions
import os
import pathlib
import re
import warnings
import zipfile

import numpy as np
import pytest
import tensorflow as tf

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from benchmarks import head_cases  # noqa: E402
from noah_tf import NOAHHead, create_model  # noqa: E402
from noah_tf.export import import_official  # noqa: E402
from noah_tf.models import official_file, tensor_files  # noqa: E402
from noah_tf.models.interpolation import interpolate  # noqa: E402
from noah_tf.models.official import (  # noqa: E402
    load_official_weights,
    save_official_weights,
    state_dict,
)

pytestmark = pytest.mark.slow
SUFFIXES = ("pth", "pt", "pth.tar")
HEAD = head_cases.Shape(positions=16, channels=8, classes=3, groups=2, ratio=1 / 2)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.downsample = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, groups=2, bias=False))

    def forward(self, x):
        return self.bn1(self.conv1(x)) + self.downsample(x)


class Net(torch.nn.Module):
    """A model whose modules are named as a ResNet's."""

    def __init__(self, noah):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.layer1 = torch.nn.Sequential(Block())
        pool = torch.nn.AdaptiveAvgPool2d(1)
        linear = torch.nn.Sequential(pool, torch.nn.Flatten(), torch.nn.Linear(8, 3))
        self.head = head_cases.reference_module(HEAD) if noah else linear
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, tensor in self.state_dict().items():
                if tensor.is_floating_point():
                    tensor.normal_(generator=generator)
                if name.endswith("running_var"):
                    tensor.abs_()
        self.eval()

    def forward(self, x):
        return self.head(self.layer1(self.bn1(self.conv1(x))))


def keras_net(noah=True):
    """The same model in Keras."""
    layers = tf.keras.layers
    norm = {"epsilon": 1e-5}
    images = tf.keras.Input((13, 13, 3))
    x = layers.Conv2D(8, 3, 2, use_bias=False, name="conv1")(images)
    x = layers.BatchNormalization(name="bn1", **norm)(x)
    branch = layers.DepthwiseConv2D(3, use_bias=False, name="layer1.0.conv1")(x)
    branch = layers.BatchNormalization(name="layer1.0.bn1", **norm)(branch)
    short = layers.Conv2D(8, 3, groups=2, use_bias=False, name="layer1.0.downsample.0")(x)
    x = layers.Add()([branch, short])
    if noah:
        x = NOAHHead(3, 2, 0.5, name="noah_head")(x)
    else:
        x = layers.Dense(3, name="gap_logits")(layers.GlobalAveragePooling2D()(x))
    return tf.keras.Model(images, x, name="noah_resnet18" if noah else "resnet18")


def tensors_of(net):
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def assert_same(got, want, kind=""):
    assert list(got) == list(want), kind
    for name, array in want.items():
        assert got[name].dtype == array.dtype, (kind, name)
        np.testing.assert_array_equal(got[name], array, err_msg=f"{kind} {name}")


def load_error(path, model=None):
    """Returns the message of the error that loading raises, and checks that no weight changed."""
    model = model or keras_net()
    before = state_dict(model)
    with pytest.raises(ValueError) as caught:
        load_official_weights(model, path)
    assert_same(state_dict(model), before)
    return str(caught.value)


# Models


@pytest.mark.parametrize("noah", [True, False])
def test_both_frameworks_load_each_others_files_and_give_equal_logits(tmp_path, noah):
    net, model = Net(noah), keras_net(noah)
    torch.save(net.state_dict(), tmp_path / "torch.pth")
    load_official_weights(model, tmp_path / "torch.pth")
    assert_same(state_dict(model), tensors_of(net))
    images = np.random.default_rng(0).normal(size=(2, 13, 13, 3)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-4)

    model.set_weights([weight + 1 for weight in model.get_weights()])
    for name in ("keras.pth", "keras.safetensors"):
        save_official_weights(model, tmp_path / name)
    saved = torch.load(tmp_path / "keras.pth")
    assert list(saved) == list(net.state_dict())
    result = net.load_state_dict(saved, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    assert_same(tensors_of(net), state_dict(model))
    for name in ("keras.pth", "keras.safetensors"):
        again = load_official_weights(keras_net(noah), tmp_path / name)
        assert_same(state_dict(again), state_dict(model))


def test_a_head_without_a_backbone(tmp_path):
    head = head_cases.reference_module(HEAD)
    torch.save(head.state_dict(), tmp_path / "head.pt")
    layer = NOAHHead(3, 2, 0.5)
    layer.build((None, 4, 4, 8))
    load_official_weights(layer, tmp_path / "head.pt")
    features = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype(np.float32)
    with torch.no_grad():
        expected = head(torch.from_numpy(features).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(layer(features), expected, rtol=1e-5, atol=1e-5)
    save_official_weights(layer, tmp_path / "again.pt")
    head.load_state_dict(torch.load(tmp_path / "again.pt"), strict=True)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("mobilenetv2_035", "module."),
        ("noah_resnet18", "module."),
        ("mobilenetv3_small", "module."),
        ("shufflenetv2_100", "module."),
        ("deit_tiny_050_patch16_224", "model"),
        ("noah_pvt_tiny_050", "model"),
        ("mixer_s16_050_224", "state_dict"),
        ("noah_gmlp_ti16_050_224", "state_dict"),
    ],
)
def test_files_for_the_training_scripts(tmp_path, name, key):
    model = create_model(name, num_classes=2)
    path = save_official_weights(model, tmp_path / "model.pth.tar", script=True)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth.tar"]
    content = torch.load(path)
    if key == "module.":
        assert all(name.startswith(key) for name in content)
        stored = {name.removeprefix(key): tensor.numpy() for name, tensor in content.items()}
    else:
        assert list(content) == [key]
        stored = {name: tensor.numpy() for name, tensor in content[key].items()}
    assert_same(stored, state_dict(model))
    fresh = load_official_weights(create_model(name, num_classes=2), path)
    assert_same(state_dict(fresh), stored)


# Contents of files


def containers(net):
    """Yields checkpoints as the training scripts of the families write them."""
    plain = net.state_dict()
    parallel = torch.nn.DataParallel(net).state_dict()
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(2, 3, 13, 13)).sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(lr=0.1, data_path="/data", betas=[0.9, 0.999], clip_grad=None)
    wrong = {name: torch.zeros(1) for name in plain}
    yield "bare", plain, False
    yield "bare in parallel", parallel, False
    accuracy = {"acc": torch.tensor(71.8), "best_acc": 71.81}
    states = {"epoch": 3, "optimizer": optimizer.state_dict()}
    yield "CNN", {**states, **accuracy, "state_dict": parallel}, False
    yield "DeiT", {**states, "model": plain, "model_ema": wrong, "args": arguments}, False
    yield "DeiT EMA", {**states, "model": wrong, "model_ema": plain, "args": arguments}, True
    timm = {**states, "arch": "mixer", "version": 2, "metric": 70.1, "args": arguments}
    yield "timm", {**timm, "state_dict": plain, "state_dict_ema": wrong}, False
    yield "timm EMA", {**timm, "state_dict": wrong, "state_dict_ema": parallel}, True
    yield "module's parameters", dict(net.named_parameters()) | dict(net.named_buffers()), False


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_containers(tmp_path, suffix, zipped):
    net = Net(noah=True)
    path = tmp_path / f"checkpoint.{suffix}"
    for kind, content, ema in containers(net):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        model = load_official_weights(keras_net(), path, ema=ema)
        assert_same(state_dict(model), tensors_of(net), kind)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(tmp_path, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in Net(noah=True).state_dict().items()}
    expected = {
        name: np.zeros((), np.int64) if name.endswith("batches_tracked") else tensor.float().numpy()
        for name, tensor in tensors.items()
    }
    torch.save(tensors, tmp_path / "model.pt")
    for source in (tmp_path / "model.pt", tensors):
        assert_same(state_dict(load_official_weights(keras_net(), source)), expected)


def test_a_mapping_of_parameters_in_channels_last_layout():
    net = Net(noah=True).to(memory_format=torch.channels_last)
    assert not net.conv1.weight.is_contiguous()
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    model = load_official_weights(keras_net(), tensors)
    assert_same(state_dict(model), tensors_of(net))


def test_integer_tensors_raise(tmp_path):
    tensors = {**Net(noah=True).state_dict(), "bn1.bias": torch.ones(8, dtype=torch.int8)}
    torch.save(tensors, tmp_path / "model.pt")
    assert "not a floating-point array: bn1.bias (int8)." in load_error(tmp_path / "model.pt")


# Files that raise


class Calls:
    """An object of a malicious file: unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("function", "unsafe_global"),
    [(os.system, "posix.system"), (eval, "eval"), (pathlib.Path.touch, "getattr|pathlib")],
)
@pytest.mark.parametrize("inside", [False, True], ids=["beside", "in args"])
def test_code_in_a_file_is_not_run(tmp_path, function, unsafe_global, inside, zipped):
    trace = tmp_path / "trace"  # The code in the file would create this file.
    code = {os.system: f"touch {trace}", eval: f"open({str(trace)!r}, 'w')"}
    argument = code.get(function, trace)
    function(argument)
    assert trace.exists()
    trace.unlink()

    attack = Calls(function, argument)
    attack = argparse.Namespace(x=attack) if inside else attack
    path = tmp_path / "model.pth"
    content = {"model": Net(noah=True).state_dict(), "args": attack}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = load_error(path)
    assert not trace.exists()
    needed = re.search(r"model.pth needs (\S+), which could run code", message)
    assert re.search(unsafe_global, needed[1])
    assert "none of its code was run" in message and "weights_only" not in message


@pytest.mark.parametrize(
    ("value", "unsafe_global"),
    [
        (np.float64(71.8), "numpy._core.multiarray.scalar"),
        (pathlib.PurePosixPath("/data"), "pathlib"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (fractions.Fraction(1, 2), "fractions.Fraction"),
    ],
)
def test_errors_name_the_class_of_an_unsafe_object(tmp_path, value, unsafe_global):
    torch.save({"state_dict": Net(noah=True).state_dict(), "acc": value}, tmp_path / "model.pth")
    assert f"model.pth needs {unsafe_global}" in load_error(tmp_path / "model.pth")
    torch.save(value, tmp_path / "model.pth")
    assert f"model.pth needs {unsafe_global}" in load_error(tmp_path / "model.pth")


def test_loading_leaves_the_safe_globals_unchanged(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    content = {"model": Net(noah=True).state_dict(), "args": argparse.Namespace()}
    torch.save(content, tmp_path / "m.pt")
    load_official_weights(keras_net(), tmp_path / "m.pt")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(Exception, match="argparse.Namespace"):
        torch.load(tmp_path / "m.pt", weights_only=True)


def test_classes_that_the_caller_allows_stay_allowed(tmp_path):
    torch.save({**Net(noah=True).state_dict()}, tmp_path / "m.pt")
    with torch.serialization.safe_globals([argparse.Namespace]):
        load_official_weights(keras_net(), tmp_path / "m.pt")
        assert argparse.Namespace in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("kind", [argparse.Namespace, collections.OrderedDict])
def test_objects_with_the_attributes_of_arrays_read_no_memory(tmp_path, kind):
    memory = np.full(8, 7.0, np.float32)
    fake = kind()
    interface = {"data": (memory.ctypes.data, False), "shape": (8,), "typestr": "<f4", "version": 3}
    fake.__dict__.update(dtype="float32", shape=(8,), __array_interface__=interface)
    content = {"model": {**Net(noah=True).state_dict(), "bn1.bias": fake}}
    torch.save(content, tmp_path / "model.pth")
    assert f"got 'bn1.bias', a {kind.__name__}, under 'model'." in load_error(
        tmp_path / "model.pth"
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(8).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.ones(8), 0.1, 0, torch.qint8),
        lambda: torch.ones(8, device="meta"),
    ],
    ids=["sparse", "quantized", "meta"],
)
def test_tensors_that_are_not_dense_arrays_raise(make):
    tensors = {**Net(noah=True).state_dict(), "bn1.bias": make()}
    model = keras_net()
    with pytest.raises(ValueError, match="not a floating-point array: bn1.bias \\(got "):
        load_official_weights(model, tensors)


def test_a_tensor_that_declares_a_huge_shape_raises(tmp_path):
    huge = torch.ones(1, dtype=torch.half).expand(1 << 42)
    torch.save({**Net(noah=True).state_dict(), "bn1.bias": huge}, tmp_path / "model.pth")
    assert (tmp_path / "model.pth").stat().st_size < 100_000
    assert f"bn1.bias ({1 << 42},), expected (8,)" in load_error(tmp_path / "model.pth")


def test_a_compressed_file_loads(tmp_path):
    net = Net(noah=True)
    torch.save(net.state_dict(), tmp_path / "stored.pth")
    with (
        zipfile.ZipFile(tmp_path / "stored.pth") as stored,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in stored.namelist():
            packed.writestr(member, stored.read(member))
    model = load_official_weights(keras_net(), tmp_path / "packed.pth")
    assert_same(state_dict(model), tensors_of(net))


def test_tensors_saved_on_a_gpu_load_without_one(tmp_path, monkeypatch):
    net = Net(noah=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(net.state_dict(), tmp_path / "model.pth")
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "model.pth", weights_only=True)
    model = load_official_weights(keras_net(), tmp_path / "model.pth")
    assert_same(state_dict(model), tensors_of(net))


def test_pytorchs_environment_variable_does_not_allow_code(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(Calls(os.system, f"touch {tmp_path / 'trace'}"), tmp_path / "model.pth")
    assert "posix.system" in load_error(tmp_path / "model.pth")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated_files(tmp_path, zipped):
    path = tmp_path / "model.pth"
    torch.save(Net(noah=True).state_dict(), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for length in (0, 1, 10, 100, len(data) // 2, len(data) - 200, len(data) - 1):
        path.write_bytes(data[:length])
        message = load_error(path)
        assert message.startswith(f"{path} is damaged, unsafe to read, or not a file"), length
        assert not re.search(r"\(\d*\)", message)
        assert "weights_only" not in message and "\n" not in message


@pytest.mark.parametrize(
    "data", [b"<html>404</html>", b"\x00" * 1000, b"PK\x03\x04 and no more", b"\x80\x02}q\x00."]
)
def test_files_that_are_not_checkpoints(tmp_path, data):
    (tmp_path / "model.pt").write_bytes(data)
    message = load_error(tmp_path / "model.pt")
    assert "weights_only" not in message and len(message) < 400


def test_files_without_named_tensors(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.warns(UserWarning, match="TorchScript"):
        assert "(TorchScript archives" in load_error(tmp_path / "model.pt")
    torch.save([torch.ones(2)], tmp_path / "model.pt")
    assert "must hold a mapping name → tensor, got a list." in load_error(tmp_path / "model.pt")
    torch.save({"epoch": 3, "weights": {}}, tmp_path / "model.pt")
    assert "got 'epoch', a int, and nothing under state_dict or model." in load_error(
        tmp_path / "model.pt"
    )


def test_a_pytorch_with_an_unsafe_reader_raises(tmp_path, monkeypatch):
    torch.save(Net(noah=True).state_dict(), tmp_path / "model.pth")
    version = type(torch.__version__)("2.5.1+cpu")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ImportError, match="needs PyTorch 2.6 or newer.*got 2.5.1"):
        load_official_weights(keras_net(), tmp_path / "model.pth")


def test_a_failed_save_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = save_official_weights(keras_net(), tmp_path / "model.pth")
    before = path.read_bytes()

    def full_disk(content, path):
        pathlib.Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_official_weights(keras_net(noah=False), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]


# Interpolation


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 15)] * 4),
    st.sampled_from(["bilinear", "bicubic"]),
    st.integers(0, 2**32 - 1),
)
def test_interpolation_equals_pytorchs(sizes, method, seed):
    table = np.random.default_rng(seed).normal(size=(*sizes[:2], 3))
    tensor = torch.from_numpy(table).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(
        tensor, size=sizes[2:], mode=method, align_corners=False
    )
    got = interpolate(table, sizes[2:], method)
    np.testing.assert_allclose(got, expected[0].permute(1, 2, 0).numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "method", "tables"),
    [
        ("deit_tiny_050_patch16_224", "bicubic", {"pos_embed": (4, 6)}),
        ("noah_deit_tiny_050_patch16_224", "bicubic", {"pos_embed": (4, 6)}),
        (
            "pvt_tiny_050",
            "bilinear",
            {f"pos_embed{n}": (64 * 2 // 2**n // 4, 96 * 2 // 2**n // 4) for n in (1, 2, 3, 4)},
        ),
    ],
)
def test_a_checkpoint_for_another_image_size(tmp_path, name, method, tables):
    net = create_model(name, num_classes=2)
    path = save_official_weights(net, tmp_path / "model.pth")
    model = create_model(name, num_classes=2, input_shape=(64, 96, 3), weights=path)
    expected = {n: torch.from_numpy(array) for n, array in state_dict(net).items()}
    for table, grid in tables.items():
        tokens = expected[table]
        prefix = tokens.shape[1] % 7  # With 224 pixels the number of positions is a multiple of 7.
        side = int((tokens.shape[1] - prefix) ** 0.5)
        image = tokens[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        image = torch.nn.functional.interpolate(image, size=grid, mode=method, align_corners=False)
        expected[table] = torch.cat([tokens[:, :prefix], image.flatten(2).transpose(1, 2)], dim=1)
    got = state_dict(model)
    assert list(got) == list(expected)
    for n, tensor in expected.items():
        if n in tables:
            np.testing.assert_allclose(got[n], tensor.numpy(), atol=1e-6)
        else:
            np.testing.assert_array_equal(got[n], tensor.numpy())


def test_files_are_read_without_warnings(tmp_path):
    path = save_official_weights(keras_net(), tmp_path / "model.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = tensor_files.read_checkpoint(path)
        load_official_weights(keras_net(), content)
    assert isinstance(content, collections.abc.Mapping)


def test_the_benchmarks_torch_head_equals_noah_head():
    shape, batch = head_cases.Shape(9, 16, 5, 2, 1 / 4), 3
    module = head_cases.reference_module(shape)
    forward, train = head_cases.reference(shape, batch, module)
    head = NOAHHead(shape.classes, shape.groups, shape.ratio)
    features, labels = head_cases.problem(shape, batch)
    head.build(features.shape)
    load_official_weights(head, module.state_dict())
    np.testing.assert_allclose(forward(), head(features), rtol=1e-5, atol=1e-5)
    train()
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, head(features))
        loss = tf.reduce_mean(losses)
    gradient = tape.gradient(loss, head.value_bias).numpy().ravel()
    np.testing.assert_allclose(module.value.bias.grad, gradient, atol=1e-6)


def test_the_official_file_of_the_smallest_model(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    name = "deit_tiny_050_patch16_224"
    file = official_file(name)
    file.path.parent.mkdir()
    source = create_model(name)
    save_official_weights(source, file.path, script=True)
    model = create_model(name, weights="official")
    for weight, expected in zip(model.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert file.sha256_path.is_file()
    imported = import_official(name, "official", tmp_path / "imported")
    assert imported.keras_file.is_file()
    with file.path.open("r+b") as content:
        content.truncate(file.path.stat().st_size // 2)
    with pytest.raises(ValueError, match="has changed"):
        create_model(name, weights="official")
    file.sha256_path.unlink()
    with pytest.raises(ValueError, match="damaged"):
        create_model(name, weights="official")
    file.path.write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(ValueError, match="web page"):
        create_model(name, weights="official")
