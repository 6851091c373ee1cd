"""Measures what a NOAH head costs, compared with the reference in PyTorch and with a pooled head.

    pip install -e ".[torch]"
    python benchmarks/head.py                # all parts, half an hour on two cores
    python benchmarks/head.py --part=speed --shape=resnet50

The script prints Markdown. `--plot FILE.png` draws memory against the number of classes. The parts
are:

    speed    medians of the forward pass and the training step, measured alternately in one process.
             "of the GEMM rate" counts three times the operations of the forward pass's matrix
             products for a training step. "its products alone" are only these matrix products.
    latency  the forward pass of one image, with the head's inference form
    memory   the highest resident size in training minus the level before the first step: the median
             of five new processes, with the allocators' defaults and with all freed memory returned
             to the system
    classes  memory with freed memory returned, from 1,000 to 100,000 classes
    models   whole models with NOAH compared with the same models with a pooled linear head

Each time is a median, followed by the quartiles. On a machine that does other work as well, the
processor time of one thread (`--threads 1 --clock cpu`) varies less than the wall time of two.

PyTorch is left out if it is not installed. An older version of the package is measured in the same
turns with `--before noah_before`, the name of an importable copy:

    mkdir -p build/before
    git archive COMMIT noah_tf | tar -x -C build/before --transform s/^noah_tf/noah_before/
    grep -rl noah_tf build/before | xargs sed -i s/noah_tf/noah_before/g
    PYTHONPATH=build/before python benchmarks/head.py --part=latency --before noah_before

docs/speed.md has the results and the alternatives that were measured.
"""

import argparse
import importlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import head_cases as cases
import head_memory
import numpy as np
import tensorflow as tf
from turns import seconds_in_turns

import noah_tf

CLOCKS = ("wall", "cpu")
PARTS = ("speed", "latency", "memory", "classes", "models")
# Less memory than with the default of 256 MiB, in exchange for more time.
TIGHT = {"memory_budget": 16}
CLASS_COUNTS = (1000, 3000, 10000, 30000, 100000)
MODELS = ("mobilenetv2_050", "mobilenetv2_100", "resnet50", "deit_tiny_patch16_224")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="by default all")
    parser.add_argument("--shape", choices=cases.SHAPES, action="append", help="by default all")
    parser.add_argument("--model", choices=MODELS, action="append", help="by default all")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--plot", help="PNG of memory against the number of classes")
    parser.add_argument("--before", help="name of an importable copy of an older version")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    if arguments.threads == 1:
        tf.config.threading.set_inter_op_parallelism_threads(1)
    shapes = {name: cases.SHAPES[name] for name in arguments.shape or cases.SHAPES}
    print(f"TensorFlow {tf.__version__}, PyTorch {_torch_version()}, {os.cpu_count()} processors")
    for part in arguments.part or PARTS:
        print(f"\n## {part}\n")
        if part == "speed":
            speed(shapes, arguments.repeats, arguments)
        elif part == "latency":
            latency(shapes, 3 * arguments.repeats, arguments)
        elif part == "memory":
            memory(shapes)
        elif part == "classes":
            classes(arguments.plot)
        else:
            models(max(3, arguments.repeats // 3), arguments)


def speed(shapes, repeats, arguments):
    columns = ["ms (quartiles)", "over PyTorch", "over the pooled head", "over its products"]
    _row("shape", "", *columns, "of the GEMM rate")
    _row(*["---"] * 7)
    for name, shape in shapes.items():
        batch = cases.BATCH_SIZES[name]
        heads = {
            "PyTorch": cases.reference(shape, batch),
            "NOAH": cases.noah(shape, batch),
            f"NOAH, {_label(TIGHT)}": cases.noah(shape, batch, **TIGHT),
            "before": arguments.before and cases.noah(shape, batch, package=arguments.before),
            "pooled": cases.gap(shape, batch),
            "its products alone": cases.products_alone(shape, batch),
        }
        heads = {label: steps for label, steps in heads.items() if steps}
        multiply, operations = cases.matrix_product()
        for index, kind in enumerate(("forward", "training step")):
            # The budget only affects training, so the forward pass is measured once.
            functions = {h: s[index] for h, s in heads.items() if index or _label(TIGHT) not in h}
            quartiles = _quartiles({**functions, "GEMM": multiply}, repeats, arguments)
            rate = operations / quartiles.pop("GEMM")[1]
            times = {label: seconds for label, (_, seconds, _) in quartiles.items()}
            for label, seconds in times.items():
                products = (1 + 2 * index) * cases.products(shape, batch)
                share = "" if label == "pooled" else f"{products / seconds / rate:.2f}"
                others = [times.get(other) for other in ("PyTorch", "pooled", "its products alone")]
                ratios = [f"{o / seconds:.2f}" if o else "" for o in others]
                _row(name, f"{kind}, {label}", _milliseconds(quartiles[label], 1), *ratios, share)


def latency(shapes, repeats, arguments):
    _row("shape", "", "ms (quartiles)", "speedup over PyTorch")
    _row(*["---"] * 4)
    for name, shape in shapes.items():
        heads = {"PyTorch": cases.reference(shape, 1), "NOAH": cases.noah(shape, 1, export=True)}
        if arguments.before:
            heads["before"] = cases.noah(shape, 1, export=True, package=arguments.before)
        heads["pooled"] = cases.gap(shape, 1)
        functions = {label: steps[0] for label, steps in heads.items() if steps}
        times = _quartiles(functions, repeats, arguments, calls=5)
        for label, quartiles in times.items():
            faster = f"{times['PyTorch'][1] / quartiles[1]:.2f}" if "PyTorch" in times else ""
            _row(name, label, _milliseconds(quartiles, 2), faster)


def memory(shapes):
    _row("shape", "", "freed memory", "MiB, median", "minimum", "maximum", "of PyTorch's")
    _row(*["---"] * 7)
    for name, shape in shapes.items():
        batch = cases.BATCH_SIZES[name]
        heads = {"PyTorch": ("reference", {}), "NOAH": ("noah", {})}
        heads[f"NOAH, {_label(TIGHT)}"] = ("noah", TIGHT)
        heads["NOAH, implementation=direct"] = ("noah", {"implementation": "direct"})
        heads["pooled"] = ("gap", {})
        if _torch_version() == "none":
            del heads["PyTorch"]
        for return_freed in (False, True):
            reference = None
            for label, (kind, options) in heads.items():
                peaks = head_memory.peak(shape, batch, kind, return_freed=return_freed, **options)
                median = np.median(peaks)
                reference = median if label == "PyTorch" else reference
                share = f"1/{reference / median:.1f}" if reference else ""
                numbers = (f"{n:.0f}" for n in (median, peaks.min(), peaks.max()))
                _row(name, label, "returned" if return_freed else "kept", *numbers, share)


def classes(plot):
    shape, batch = cases.SHAPES["imagenet21k"], cases.BATCH_SIZES["imagenet21k"]
    _row("classes", "MiB, median", "gradients and logits", "other")
    _row(*["---"] * 4)
    rows = []
    for count in CLASS_COUNTS:
        wider = shape._replace(classes=count)
        peak = np.median(head_memory.peak(wider, batch, "noah", 3, return_freed=True, **TIGHT))
        numbers = count * (shape.channels + 2 * shape.groups + batch)
        rows.append((count, peak, 4 * numbers / 2**20))
        _row(f"{count:,}", *(f"{n:.0f}" for n in (*rows[-1][1:], peak - rows[-1][2])))
    if plot:
        _draw(np.array(rows), plot)


def _draw(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(rows[:, 0], rows[:, 1], "o-", label="increase over the level before the first step")
    axes.plot(rows[:, 0], rows[:, 2], "s--", label="gradients and logits")
    axes.plot(rows[:, 0], rows[:, 1] - rows[:, 2], "^-", label="other")
    keys = 4 * 8 * 196 * 4 * rows[:, 0] / 2**20
    axes.plot(rows[:, 0], keys, ":", color="gray", label="B x N x M x L float32, once")
    axes.set(xscale="log", yscale="log", xlabel="classes M", ylabel="MiB")
    axes.set_title("Memory of a training step: L = 196, C = 768, N = 4, batch 8")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"\nWrote {path}")


def models(repeats, arguments):
    _row("model", "", "head", "ms (quartiles)", "over the pooled head")
    _row(*["---"] * 5)
    images = tf.random.stateless_normal((32, 224, 224, 3), seed=(1, 2))
    labels = tf.random.stateless_uniform((32,), (1, 2), maxval=1000, dtype=tf.int32)
    for name in arguments.model or MODELS:
        heads = {
            "NOAH": _model_steps(noah_tf, f"noah_{name}", images, labels),
            "pooled": _model_steps(noah_tf, name, images, labels),
        }
        if arguments.before:
            before = importlib.import_module(arguments.before)
            heads["before"] = _model_steps(before, f"noah_{name}", images, labels)
        for index, kind in enumerate(("forward", "training step")):
            functions = {label: steps[index] for label, steps in heads.items()}
            times = _quartiles(functions, repeats, arguments)
            for label, quartiles in times.items():
                ratio = quartiles[1] / times["pooled"][1]
                _row(name, kind, label, _milliseconds(quartiles, 0), f"{ratio:.3f}")


def _model_steps(package, name, images, labels):
    model = package.create_model(name)

    @tf.function
    def forward():
        return model(images, training=False)

    @tf.function
    def train():
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels, model(images, training=True)
            )
            loss = tf.reduce_mean(losses)
        return tape.gradient(loss, model.trainable_weights)

    return forward, train


def _quartiles(functions, repeats, arguments, calls=1):
    """Returns for each function the quartiles of the seconds of a call, the median second."""
    for function in functions.values():
        function()  # The first call traces.
        function()
    times = seconds_in_turns(functions, repeats, calls, warm_up=True)
    column = CLOCKS.index(arguments.clock)
    return {n: np.quantile(rows[:, column], (0.25, 0.5, 0.75)) for n, rows in times.items()}


def _milliseconds(quartiles, digits):
    low, median, high = (f"{1000 * seconds:.{digits}f}" for seconds in quartiles)
    return f"{median} ({low}–{high})"


def _label(options):
    return ", ".join(f"{key}={value}" for key, value in options.items())


def _row(*cells):
    print("| " + " | ".join(cells) + " |", flush=True)


def _torch_version():
    try:
        import torch
    except ImportError:
        return "none"
    return torch.__version__


if __name__ == "__main__":
    main()
