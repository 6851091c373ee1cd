"""What a NOAH head costs: beside the reference in PyTorch, beside a pooled head, and in a model.

    pip install -e ".[torch]"
    python benchmarks/head.py                # all parts, half an hour on two cores
    python benchmarks/head.py --part=speed --shape=resnet50

Prints Markdown; `--plot FILE.png` draws memory against the number of classes. Parts:

    speed    forward pass and training step, medians of repeats that take turns in one process;
             the share of the machine's rate counts three times the forward pass's products; "its
             products alone" are the head's own matrix products with nothing around them
    latency  forward pass of one image, of NOAH as an export has it
    memory   highest resident size in training over that before the first step, a fresh process
             each, median of five; as allocators come, which keep what is freed, and with all of
             it given back to the system at once
    classes  the latter from 1,000 to 100,000 classes
    models   whole models with NOAH beside themselves with pooling and a linear layer

PyTorch is left out where it is not installed.

What was tried, TensorFlow 2.21 on two cores of an EPYC, 470 GFLOP/s in a large product. Products
of one MobileNetV2 group (40 or 120 channels) run at 310 and 450 of them, so that the six products
of a training step alone are 0.84 of the rate; they take 3.8 of its 5.3 ms, exp 0.46, the sums
0.13 and the four other passes over B*L*m numbers 0.9. At 21,843 classes even products at the full
rate would be only 9 and 5.4 times PyTorch's time here. Milliseconds of the training step:

    MobileNetV2 shape, everything kept
    automatic differentiation (what "direct" does)                                      55
    closed form, channel blocks free to overlap (what "blocked" does)                   43
    the same one after another                                                          45
    the same in a tf.while_loop over units                                              47
    the same in XLA                                                                     50
    XLA for the passes between products alone                                           52
    gradients of kernels written in place, for want of a copy                           49
    MobileNetV2 shape, nothing kept
    units spelled out                                                                   53
    a tf.while_loop over units (what "blocked" does now, for its memory)                63
    two blocks of 512 classes                                                           52
    eight of 128                                                                        62
    ResNet-50 shape: kept 53; in XLA 57; nothing kept 66
    ResNet-18 shape: kept 18; nothing kept 22; two blocks of 500 kept 22

On a slower machine (two cores of a Xeon, 215 GFLOP/s) products of a group run at 90 to 140, and
TensorFlow has no faster form of them: batched ones, 1x1 convolutions and XLA take as long or
longer. There the products alone are 0.68 of MobileNetV2's step and 0.78 of ResNet-50's. Cutting
the batch in 2, 4 or 8, so that a unit fits the second cache, takes from 16 % less (ResNet-18, in 2)
to 55 % longer (MobileNetV2, in 8) in the forward pass, mostly longer.

Memory of MobileNetV2's step there in MiB, nothing kept, and milliseconds beside 97 with all kept
(the pooled head's takes 20):

    units spelled out, 1,000 classes each: 80, of which 20 are holes in the heap        124
    the same with the channels cut for each unit anew: 79
    two runs of 500 in a loop: 108, as tf.zeros are constants of the graph, and copied
    the same with zeros of the op Empty: 96
    one loop over units of 512, all gradients written in place: 60                      176
    the same with the features' gradient in a TensorArray: 70                           165
    a loop over channel blocks, in it one over runs (what "blocked" does):
    of 1,000 classes 71, of 512 or of 500 51 to 60                                      163, 173
    (of DeiT-Tiny's 128 classes at a time 53 MiB and 177 ms, spelled out 65 and 166)

Products of all groups at once, (N, B*L, C/N) x (N, C/N, M), take 10 to 20 % longer in the forward
pass of 32 images, and 5 to 15 % less for one image. Sums over positions by products with ones or by
pooling, and positions outermost in memory, take what a plain sum takes. A graph of many units takes
more memory than the units (2,300 nodes: 40 MiB).
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import head_cases as cases
import head_memory
import numpy as np
import tensorflow as tf
from turns import seconds_in_turns

import noah_tf

PARTS = ("speed", "latency", "memory", "classes", "models")
# Less memory than the default of 256 MiB, for more time.
TIGHT = {"memory_budget": 16}
CLASS_COUNTS = (1000, 3000, 10000, 30000, 100000)
MODELS = ("mobilenetv2_050", "mobilenetv2_100", "resnet50", "deit_tiny_patch16_224")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="by default all")
    parser.add_argument("--shape", choices=cases.SHAPES, action="append", help="by default all")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--plot", help="PNG of memory against the number of classes")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(2)
    shapes = {name: cases.SHAPES[name] for name in arguments.shape or cases.SHAPES}
    print(f"TensorFlow {tf.__version__}, PyTorch {_torch_version()}, {os.cpu_count()} processors")
    for part in arguments.part or PARTS:
        print(f"\n## {part}\n")
        if part == "speed":
            speed(shapes, arguments.repeats)
        elif part == "latency":
            latency(shapes, 3 * arguments.repeats)
        elif part == "memory":
            memory(shapes)
        elif part == "classes":
            classes(arguments.plot)
        else:
            models(max(3, arguments.repeats // 3))


def speed(shapes, repeats):
    columns = ["ms", "times PyTorch's", "times the pooled head's", "times its products'"]
    _row("shape", "", *columns, "of the GEMM rate")
    _row(*["---"] * 7)
    for name, shape in shapes.items():
        batch = cases.BATCH_SIZES[name]
        heads = {
            "PyTorch": cases.reference(shape, batch),
            "NOAH": cases.noah(shape, batch),
            f"NOAH, {_label(TIGHT)}": cases.noah(shape, batch, **TIGHT),
            "pooled": cases.gap(shape, batch),
            "its products alone": cases.products_alone(shape, batch),
        }
        heads = {label: steps for label, steps in heads.items() if steps is not None}
        multiply, operations = cases.matrix_product()
        for place, kind in enumerate(("forward", "training step")):
            # One forward pass serves both, as the budget is for training.
            turns = {h: s[place] for h, s in heads.items() if place or _label(TIGHT) not in h}
            times = _medians({**turns, "GEMM": multiply}, repeats, calls=2)
            rate = operations / times.pop("GEMM")
            for label, seconds in times.items():
                products = (1 + 2 * place) * cases.products(shape, batch)
                share = "" if label == "pooled" else f"{products / seconds / rate:.2f}"
                others = [times.get(other) for other in ("PyTorch", "pooled", "its products alone")]
                ratios = [f"{o / seconds:.2f}" if o else "" for o in others]
                _row(name, f"{kind}, {label}", f"{1000 * seconds:.1f}", *ratios, share)


def latency(shapes, repeats):
    _row("shape", "", "ms", "times PyTorch's")
    _row(*["---"] * 4)
    for name, shape in shapes.items():
        heads = {"PyTorch": cases.reference(shape, 1), "NOAH": cases.noah(shape, 1, export=True)}
        heads["pooled"] = cases.gap(shape, 1)
        times = _medians({h: s[0] for h, s in heads.items() if s is not None}, repeats, calls=5)
        for label, seconds in times.items():
            faster = f"{times['PyTorch'] / seconds:.2f}" if "PyTorch" in times else ""
            _row(name, label, f"{1000 * seconds:.2f}", faster)


def memory(shapes):
    _row("shape", "", "freed memory", "MiB, median", "least", "most", "of PyTorch's")
    _row(*["---"] * 7)
    for name, shape in shapes.items():
        batch = cases.BATCH_SIZES[name]
        heads = {"PyTorch": ("reference", {}), "NOAH": ("noah", {})}
        heads[f"NOAH, {_label(TIGHT)}"] = ("noah", TIGHT)
        heads["NOAH, implementation=direct"] = ("noah", {"implementation": "direct"})
        heads["pooled"] = ("gap", {})
        if _torch_version() == "none":
            del heads["PyTorch"]
        for give_back in (False, True):
            reference = None
            for label, (kind, options) in heads.items():
                peaks = head_memory.peak(shape, batch, kind, give_back=give_back, **options)
                middle = np.median(peaks)
                reference = middle if label == "PyTorch" else reference
                share = f"1/{reference / middle:.1f}" if reference else ""
                numbers = (f"{n:.0f}" for n in (middle, peaks.min(), peaks.max()))
                _row(name, label, "given back" if give_back else "kept", *numbers, share)


def classes(plot):
    shape, batch = cases.SHAPES["imagenet21k"], cases.BATCH_SIZES["imagenet21k"]
    _row("classes", "MiB, median", "gradients and logits of it", "beyond")
    _row(*["---"] * 4)
    rows = []
    for count in CLASS_COUNTS:
        wider = shape._replace(classes=count)
        peak = np.median(head_memory.peak(wider, batch, "noah", 3, give_back=True, **TIGHT))
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
    axes.plot(rows[:, 0], rows[:, 1], "o-", label="highest, over before the first step")
    axes.plot(rows[:, 0], rows[:, 2], "s--", label="gradients and logits")
    axes.plot(rows[:, 0], rows[:, 1] - rows[:, 2], "^-", label="beyond them")
    keys = 4 * 8 * 196 * 4 * rows[:, 0] / 2**20
    axes.plot(rows[:, 0], keys, ":", color="gray", label="B x N x M x L float32, once")
    axes.set(xscale="log", yscale="log", xlabel="classes M", ylabel="MiB")
    axes.set_title("Memory of a training step: L = 196, C = 768, N = 4, batch 8")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"\nDrawn: {path}")


def models(repeats):
    _row("model", "", "NOAH, ms", "pooled head, ms", "ratio")
    _row(*["---"] * 5)
    images = tf.random.stateless_normal((32, 224, 224, 3), seed=(1, 2))
    labels = tf.random.stateless_uniform((32,), (1, 2), maxval=1000, dtype=tf.int32)
    for name in MODELS:
        both = [_model_steps(n, images, labels) for n in (f"noah_{name}", name)]
        for place, kind in enumerate(("forward", "training step")):
            turns = {"noah": both[0][place], "pooled": both[1][place]}
            times = _medians(turns, repeats)
            noah, pooled = times["noah"], times["pooled"]
            _row(name, kind, f"{1000 * noah:.0f}", f"{1000 * pooled:.0f}", f"{noah / pooled:.3f}")


def _model_steps(name, images, labels):
    model = noah_tf.create_model(name)

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


def _medians(turns, repeats, calls=1):
    """Seconds of a call by the wall's clock."""
    for turn in turns.values():
        turn()  # traces
        turn()
    times = seconds_in_turns(turns, repeats, calls, warm_up=True)
    return {name: float(np.median(rows[:, 0])) for name, rows in times.items()}


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
