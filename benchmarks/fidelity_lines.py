"""The ingredients of the paper's recipes: what the reference implementation has, and where.

`fidelity_table` compares these lines with the recipes. The values are those of the commands,
configurations and defaults of github.com/OSVAI/NOAH at commit 2449201, on the eight GPUs of its
commands. Files of timm and torchvision are those that its files import.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

CNNS = ("resnet", "mobilenet_v2", "mobilenet_v3", "shufflenet_v2")
VITS = ("deit", "pvt")
MLPS = ("mixer", "gmlp")
FAMILIES = (*CNNS, *VITS, *MLPS)
ANY = object()  # stands for values that differ between the rows of a family

_MAIN = "main.py"
_README = "README.md"
_VIT_MAINS = "vit/deit/main.py, vit/pvt/classification/main.py"
_YAML = "mlp/configs/default_noah.yaml"
_TIMM = "timm"
_MODELS = "models/, vit/, mlp/timm/models/"

_RECIPES = "tests/runs/test_recipe.py"
_RATES = "tests/training/test_reference_rates.py::test_first_ten_and_last_three_epochs"
_OPTIMIZER = "tests/training/test_optimizer.py"
_GROUPS = "tests/training/test_param_groups.py"
_BATCHES = "tests/datasets/test_distributed.py"
_IMAGES = "tests/images"
_GOLDENS = "tests/models/test_zoo_goldens.py"
_TRANSFORM = "tests/datasets/test_pipeline.py"
_MODEL_TESTS = "tests/models/test_backbones.py"


class Line(NamedTuple):
    """A line of the table: one ingredient of some families.

    Attributes:
        ingredient: its name. The lines of one ingredient cover every family.
        families: names of files in configs/.
        reference: what the reference has.
        file: where the reference has it.
        test: the test that holds it, as FILE::TEST.
        values: keys of `fidelity_table.recipe_values`, and the values of the reference. `ANY` for
            a value that its test compares.
        difference: how the recipe differs from the reference. Empty if it is equal.
        head: "noah" or "gap" for rows with that head; None for all rows.
    """

    ingredient: str
    families: tuple[str, ...]
    reference: str
    file: str
    test: str
    values: Mapping[str, Any] = {}
    difference: str = ""
    head: str | None = None


_SGD = {"optimizer.name": "sgd", "optimizer.momentum": 0.9, "optimizer.nesterov": False}
_ADAMW = {"optimizer.name": "adamw", "optimizer.beta_1": 0.9, "optimizer.beta_2": 0.999}
_COSINE = {
    "schedule.name": "cosine",
    "schedule.by": "epoch",
    "schedule.end": 1e-5,
    "schedule.warmup_start": 1e-6,
}
_NO_MIXING = {"augment.mixup": 0.0, "augment.cutmix": 0.0}
_MIXING = {"augment.cutmix": 1.0, "augment.mix_probability": 1.0, "augment.mix_switch": 0.5}
_CROP = {"augment.crop_scale": (0.08, 1.0), "augment.flip": True, "augment.crop_antialias": True}
_ORDER = (
    "equal for folders and ArrayRecord files; TFRecord files are read in a random order, 16 at a "
    "time, with a window of `data.shuffle_buffer` images"
)
_IMAGENET = {
    "preprocess.mean": (0.485, 0.456, 0.406),
    "preprocess.std": (0.229, 0.224, 0.225),
}

# fmt: off
LINES = (
    Line("optimizer", CNNS, "SGD with momentum 0.9; weight decay is added to the gradient", _MAIN,
         f"{_OPTIMIZER}::test_rules_match_torch", _SGD),
    Line("optimizer", VITS, "AdamW, epsilon 1e-8", _VIT_MAINS,
         f"{_OPTIMIZER}::test_rules_match_torch", {**_ADAMW, "optimizer.epsilon": 1e-8}),
    Line("optimizer", MLPS, "AdamW, epsilon 1e-6", _YAML,
         f"{_OPTIMIZER}::test_rules_match_torch", {**_ADAMW, "optimizer.epsilon": 1e-6}),
    Line("weight decay", ("resnet",), "1e-4", _README,
         f"{_RECIPES}::test_recipes_of_the_cnns", {"optimizer.weight_decay": 1e-4}),
    Line("weight decay", CNNS[1:], "4e-5", _README,
         f"{_RECIPES}::test_recipes_of_the_cnns", {"optimizer.weight_decay": 4e-5}),
    Line("weight decay", VITS, "0.05", _VIT_MAINS,
         f"{_RECIPES}::test_recipes_of_the_transformers", {"optimizer.weight_decay": 0.05}),
    Line("weight decay", MLPS, "0.067", _YAML,
         f"{_RECIPES}::test_recipes_of_the_mlps", {"optimizer.weight_decay": 0.067}),
    Line("weights without decay", ("resnet", "mobilenet_v2"), "none", _MAIN,
         f"{_GROUPS}::test_resnet_and_mobilenetv2_exempt_nothing",
         {"optimizer.exempt_1d": False, "optimizer.exempt": ()}),
    Line("weights without decay", ("mobilenet_v3", "shufflenet_v2"),
         "biases and BatchNorm (`--nowd-bn`)", f"{_README}, utils/misc.py",
         f"{_GROUPS}::test_mobilenetv3_exempts_normalization_and_biases",
         {"optimizer.exempt_1d": True, "optimizer.exempt": ()}),
    Line("weights without decay", ("deit",), "1-D weights, biases, positions",
         "vit/deit/noah_vision_transformer.py",
         f"{_GROUPS}::test_deit_exempts_positions_and_class_token",
         {"optimizer.exempt_1d": True, "optimizer.exempt": ("pos_embed/*",)}, head="noah"),
    Line("weights without decay", ("deit",), "1-D weights, biases, positions, class token",
         "vit/deit/vision_transformer.py",
         f"{_GROUPS}::test_deit_exempts_positions_and_class_token",
         {"optimizer.exempt_1d": True, "optimizer.exempt": ("pos_embed/*", "cls_token/*")},
         head="gap"),
    Line("weights without decay", ("pvt",), "1-D weights and biases",
         "vit/pvt/classification/noah_pvt.py",
         f"{_GROUPS}::test_pvt_decays_positions_only_with_a_noah_head",
         {"optimizer.exempt_1d": True, "optimizer.exempt": ()}, head="noah"),
    Line("weights without decay", ("pvt",), "1-D weights, biases, class token",
         "vit/pvt/classification/pvt.py",
         f"{_GROUPS}::test_pvt_decays_positions_only_with_a_noah_head",
         {"optimizer.exempt_1d": True, "optimizer.exempt": ("cls_token/*",)}, head="gap"),
    Line("weights without decay", MLPS, "1-D weights and biases", _TIMM,
         f"{_GROUPS}::test_biases_of_any_rank_are_not_decayed",
         {"optimizer.exempt_1d": True, "optimizer.exempt": ()}),
    Line("gradient clipping", (*CNNS, *VITS), "none", f"{_MAIN}, {_VIT_MAINS}",
         f"{_RECIPES}::test_every_row_is_a_valid_recipe_of_its_model",
         {"optimizer.clip_norm": None}),
    Line("gradient clipping", MLPS, "norm of all gradients at most 1", _YAML,
         f"{_OPTIMIZER}::test_factors_starts_and_clipping", {"optimizer.clip_norm": 1.0}),
    Line("schedule", ("resnet",), "0.1, a tenth of it from epochs 30, 60 and 90",
         f"{_README}, {_MAIN}", _RATES,
         {"optimizer.learning_rate": 0.1, "schedule.name": "step", "schedule.by": "epoch",
          "schedule.boundaries": (30, 60, 90), "schedule.factor": 0.1,
          "schedule.warmup_epochs": 0.0}),
    Line("schedule", ("mobilenet_v2", "mobilenet_v3"), "0.05, cosine to 0, set once an epoch",
         f"{_README}, {_MAIN}", _RATES,
         {"optimizer.learning_rate": 0.05, "schedule.name": "cosine", "schedule.by": "epoch",
          "schedule.end": 0.0, "schedule.warmup_epochs": 0.0}),
    Line("schedule", ("shufflenet_v2",), "0.5, linear to 0, set once an epoch",
         f"{_README}, {_MAIN}", _RATES,
         {"optimizer.learning_rate": 0.5, "schedule.name": "linear", "schedule.by": "epoch",
          "schedule.end": 0.0, "schedule.warmup_epochs": 0.0}),
    Line("schedule", VITS,
         "5e-4 · batch / 512, 5 epochs of warm-up from 1e-6, cosine to 1e-5; the scheduler steps "
         "after each epoch with its number", _VIT_MAINS, _RATES,
         {"optimizer.learning_rate": 1e-3, **_COSINE, "schedule.warmup_epochs": 5.0,
          "schedule.lag_epochs": 1}),
    Line("schedule", MLPS,
         "7e-4, 20 epochs of warm-up from 1e-6, cosine to 1e-5; the scheduler steps with the "
         "number of the next epoch", f"{_YAML}, timm's train.py", _RATES,
         {"optimizer.learning_rate": 7e-4, **_COSINE, "schedule.warmup_epochs": 20.0,
          "schedule.lag_epochs": 0}),
    Line("epochs, batch, steps of an epoch", ("resnet",), "100, 256, 5,005", _README, _RATES,
         {"train.epochs": 100, "train.batch_size": 256, "steps_per_epoch": 5005}),
    Line("epochs, batch, steps of an epoch", ("mobilenet_v2", "mobilenet_v3"), "150, 256, 5,005",
         _README, _RATES,
         {"train.epochs": 150, "train.batch_size": 256, "steps_per_epoch": 5005}),
    Line("epochs, batch, steps of an epoch", ("shufflenet_v2",), "240, 1,024, 1,252", _README,
         _RATES, {"train.epochs": 240, "train.batch_size": 1024, "steps_per_epoch": 1252}),
    Line("epochs, batch, steps of an epoch", VITS, "300, 1,024, 1,251",
         f"vit/README.md, {_VIT_MAINS}", _RATES,
         {"train.epochs": 300, "train.batch_size": 1024, "steps_per_epoch": 1251}),
    Line("epochs, batch, steps of an epoch", MLPS, "300, 1,536, 834", f"mlp/README.md, {_YAML}",
         _RATES, {"train.epochs": 300, "train.batch_size": 1536, "steps_per_epoch": 834}),
    Line("last partial batch", CNNS,
         "kept, and filled with repeated examples to a multiple of eight", _MAIN,
         f"{_BATCHES}::test_the_last_batch_of_an_epoch_is_kept", {"data.keep_last_batch": True}),
    Line("last partial batch", (*VITS, *MLPS), "dropped", f"{_VIT_MAINS}, timm's loader",
         f"{_BATCHES}::test_repeats_are_blocks_of_the_same_examples",
         {"data.keep_last_batch": False}),
    Line("order of the examples", FAMILIES, "a permutation of all examples in each epoch",
         f"{_MAIN}, {_VIT_MAINS}, timm's loader",
         "tests/datasets/test_imagenet_array_record.py::test_each_epoch_is_a_permutation",
         {"data.file_format": None}, _ORDER),
    Line("repeated augmentation", (*CNNS, *MLPS), "none", f"{_MAIN}, {_YAML}",
         f"{_RECIPES}::test_recipes_of_the_mlps", {"augment.repeats": 1}),
    Line("repeated augmentation", VITS, "3 copies of an example, on different GPUs", _VIT_MAINS,
         f"{_BATCHES}::test_repeats_are_blocks_of_the_same_examples", {"augment.repeats": 3},
         "a batch has 342 examples, the last of which have two copies; in the reference, the "
         "copies of an example can be in two batches"),
    Line("BatchNorm: examples of a statistic", CNNS[:3], "32, the share of a GPU", _MAIN,
         "tests/training/test_batch_norm.py::test_each_group_is_normalized_like_a_batch",
         {"model.batch_norm_group": 32, "model.synchronized_batch_norm": False}),
    Line("BatchNorm: examples of a statistic", CNNS[3:], "128, the share of a GPU", _MAIN,
         "tests/training/test_batch_norm.py::test_each_group_is_normalized_like_a_batch",
         {"model.batch_norm_group": 128, "model.synchronized_batch_norm": False}),
    Line("BatchNorm: examples of a statistic", (*VITS, *MLPS), "no BatchNorm", _MODELS,
         "tests/training/test_batch_norm.py::test_a_model_without_batch_norm_raises",
         {"model.batch_norm_group": None}),
    Line("BatchNorm: saved averages", CNNS, "those of the first GPU; variance with n / (n - 1)",
         _MAIN, "tests/training/test_batch_norm.py::test_each_group_is_normalized_like_a_batch",
         {}, "those of the first group; Keras 3 has the variance without n / (n - 1), which is at "
         "most 1.0007 for 32 maps of 7x7"),
    Line("BatchNorm: saved averages", (*VITS, *MLPS), "no BatchNorm", _MODELS,
         "tests/training/test_batch_norm.py::test_a_model_without_batch_norm_raises"),
    Line("crop and flip", (*CNNS, *VITS),
         "8 to 100 % of the area, ratio 3/4 to 4/3, flip with probability 1/2",
         f"{_MAIN}, timm's transforms",
         f"{_IMAGES}/test_random_crop.py::test_crop_distribution",
         {**_CROP, "augment.crop_ratio": (3 / 4, 4 / 3)}),
    Line("crop and flip", MLPS,
         "8 to 100 % of the area, ratio 0.67 to 1.5, flip with probability 1/2", _YAML,
         f"{_IMAGES}/test_random_crop.py::test_crop_distribution",
         {**_CROP, "augment.crop_ratio": (0.67, 1.5)}),
    Line("interpolation of the crop", CNNS, "bilinear, antialiased (PIL)", "torchvision",
         f"{_IMAGES}/test_preprocessing.py::test_crop_antialias",
         {"preprocess.interpolation": "bilinear", "augment.crop_interpolation": "same"}),
    Line("interpolation of the crop", VITS, "bicubic, antialiased (PIL)", _VIT_MAINS,
         f"{_IMAGES}/test_preprocessing.py::test_crop_antialias",
         {"preprocess.interpolation": "bicubic", "augment.crop_interpolation": "same"}),
    Line("interpolation of the crop", MLPS, "bilinear or bicubic at random, antialiased (PIL)",
         _YAML, f"{_IMAGES}/test_preprocessing.py::test_random_interpolation_draws_one_of_two",
         {"augment.crop_interpolation": "random"}),
    Line("order of the augmentation", (*CNNS, *VITS),
         "crop, flip, RandAugment, normalization, erasing, mixing", f"{_MAIN}, timm's transforms",
         f"{_TRANSFORM}::test_augmentation_has_the_references_order"),
    Line("order of the augmentation", MLPS, "crop, flip, RandAugment, mixing, normalization",
         "timm's loader", f"{_TRANSFORM}::test_augmentation_has_the_references_order"),
    Line("RandAugment", CNNS, "none", _MAIN, f"{_RECIPES}::test_recipes_of_the_cnns",
         {"augment.rand_augment": None, "augment.color_jitter": None}),
    Line("RandAugment", VITS, "2 operations of strength 9, standard deviation 0.5, rising",
         _VIT_MAINS,
         f"{_IMAGES}/test_rand_augment.py::test_result_agrees_with_pil_for_the_same_draws",
         {"augment.rand_augment": "rand-m9-mstd0.5-inc1", "augment.color_jitter": None}),
    Line("RandAugment", MLPS, "3 operations of strength 6, standard deviation 1, rising", _YAML,
         f"{_IMAGES}/test_rand_augment.py::test_result_agrees_with_pil_for_the_same_draws",
         {"augment.rand_augment": "rand-m6-n3-mstd1.0-inc1", "augment.color_jitter": None}),
    Line("random erasing", (*CNNS, *MLPS), "none", f"{_MAIN}, {_YAML}",
         f"{_RECIPES}::test_recipes_of_the_mlps", {"augment.erasing": 0.0}),
    Line("random erasing", VITS, "probability 0.25, noise in each pixel", _VIT_MAINS,
         f"{_IMAGES}/test_erasing.py::test_distribution_of_rectangles",
         {"augment.erasing": 0.25, "augment.erasing_mode": "pixel"}),
    Line("mixup and CutMix", CNNS, "none", _MAIN, f"{_RECIPES}::test_recipes_of_the_cnns",
         _NO_MIXING),
    Line("mixup and CutMix", VITS, "alpha 0.8 and 1; always one of them, CutMix in half of them",
         _VIT_MAINS, f"{_IMAGES}/test_mixing.py::test_frequencies_of_mixup_and_cutmix",
         {"augment.mixup": 0.8, **_MIXING}),
    Line("mixup and CutMix", MLPS, "alpha 0.5 and 1; always one of them, CutMix in half of them",
         f"{_YAML}, timm/data/mixup.py",
         f"{_IMAGES}/test_mixing.py::test_frequencies_of_mixup_and_cutmix",
         {"augment.mixup": 0.5, **_MIXING},
         "timm's loader rounds mixed pixels to whole numbers (of 255)"),
    Line("examples that are mixed alike", CNNS, "no mixing", _MAIN,
         f"{_RECIPES}::test_recipes_of_the_cnns", {"augment.mix_group": None}),
    Line("examples that are mixed alike", VITS, "128, the batch of a process", _VIT_MAINS,
         f"{_IMAGES}/test_augmentation.py::test_groups_are_mixed_by_their_first_seeds",
         {"augment.mix_group": 128}),
    Line("examples that are mixed alike", MLPS, "192, the batch of a process", _YAML,
         f"{_IMAGES}/test_augmentation.py::test_groups_are_mixed_by_their_first_seeds",
         {"augment.mix_group": 192}),
    Line("loss", CNNS, "cross-entropy", _MAIN,
         "tests/training/test_losses.py::test_crossentropies",
         {"train.loss": "auto", "train.label_smoothing": 0.0}),
    Line("loss", (*VITS, *MLPS), "cross-entropy of the mixed targets, label smoothing 0.1",
         f"{_VIT_MAINS}, {_YAML}", "tests/training/test_losses.py::test_crossentropies",
         {"train.loss": "auto", "train.label_smoothing": 0.1}),
    Line("moving average of the weights", (*CNNS, "pvt"), "none",
         f"{_MAIN}, vit/pvt/classification/main.py",
         f"{_RECIPES}::test_recipes_of_the_transformers", {"ema.decay": 0.0}),
    Line("moving average of the weights", ("deit",), "0.99996", "vit/deit/main.py",
         "tests/runs/test_moving_average.py::test_average_follows_weights_and_statistics",
         {"ema.decay": 0.99996}),
    Line("moving average of the weights", MLPS, "0.99992", _YAML,
         "tests/runs/test_moving_average.py::test_average_follows_weights_and_statistics",
         {"ema.decay": 0.99992}),
    Line("best weights", (*CNNS, *VITS), "by the top-1 accuracy of the weights themselves",
         f"{_MAIN}, {_VIT_MAINS}",
         "tests/training/test_loop.py::test_unfinished_run_has_averaged_and_best_weights",
         {"best_weights": "raw"}),
    Line("best weights", MLPS, "by the top-1 accuracy of the moving average", "timm's train.py",
         "tests/training/test_loop.py::test_unfinished_run_has_averaged_and_best_weights",
         {"best_weights": "average"}),
    Line("head: groups N, key ratio r", ("resnet",), "4; 1/2 for ResNet-18, 1/8 for the others",
         _README, f"{_GOLDENS}::test_the_paper_table_equals_the_references",
         {"head.num_groups": 4, "head.key_ratio": ANY}, head="noah"),
    Line("head: groups N, key ratio r", CNNS[1:], "8; 1/4", _README,
         f"{_GOLDENS}::test_the_paper_table_equals_the_references",
         {"head.num_groups": 8, "head.key_ratio": 0.25}, head="noah"),
    Line("head: groups N, key ratio r", (*VITS, *MLPS), "4; 1/2",
         "vit/README.md, mlp/README.md",
         f"{_GOLDENS}::test_the_paper_table_equals_the_references",
         {"head.num_groups": 4, "head.key_ratio": 0.5}, head="noah"),
    Line("dropout of the head", ("resnet", "mobilenet_v2"),
         "0.1 for ResNet-18, 0.2 for MobileNetV2 ×1.0; no command for the others", _README,
         "tests/head/test_layer.py::test_logits_with_dropout_are_unbiased",
         {"head.dropout": ANY}, "for the others, 0 is a guess: the default of the script",
         head="noah"),
    Line("dropout of the head", ("mobilenet_v3",), "0.2", _README,
         "tests/head/test_layer.py::test_logits_with_dropout_are_unbiased",
         {"head.dropout": 0.2}, head="noah"),
    Line("dropout of the head", ("shufflenet_v2",), "0", _README,
         "tests/head/test_layer.py::test_logits_with_dropout_are_unbiased",
         {"head.dropout": 0.0}, head="noah"),
    Line("dropout of the head", (*VITS, *MLPS), "0.1", _MODELS,
         "tests/head/test_layer.py::test_logits_with_dropout_are_unbiased",
         {"head.dropout": 0.1}, head="noah"),
    Line("dropout of the backbone", CNNS, "none", "models/",
         f"{_RECIPES}::test_every_row_is_a_valid_recipe_of_its_model",
         {"model.drop_path": 0.0, "model.mlp_dropout": 0.0}),
    Line("dropout of the backbone", VITS, "drop path, from 0 in the first block to 0.1 in the last",
         _VIT_MAINS, f"{_MODEL_TESTS}::test_drop_path_rates_increase_linearly",
         {"model.drop_path": 0.1, "model.mlp_dropout": 0.0}),
    Line("dropout of the backbone", MLPS, "drop path 0.1 in each block, 0.02333 in the MLPs", _YAML,
         "tests/models/test_zoo.py::test_mixer_has_the_same_drop_rates_in_every_block",
         {"model.drop_path": 0.1, "model.mlp_dropout": 0.02333}),
    Line("initial weights", CNNS[:3], "Kaiming's normal, by module", "models/, modules/noah.py",
         f"{_MODEL_TESTS}::test_convolutional_networks_have_the_references_initial_weights",
         {"model.weights": None, "model.kernel_initializer": None}),
    Line("initial weights", CNNS[3:], "PyTorch's defaults, of NOAH Kaiming's normal",
         "models/, modules/noah.py",
         f"{_MODEL_TESTS}::test_shufflenet_has_the_references_initial_weights",
         {"model.weights": None, "model.kernel_initializer": None}),
    Line("initial weights", VITS, "truncated normal, by module", "vit/, modules/noah.py",
         f"{_MODEL_TESTS}::test_transformers_have_the_references_initial_weights",
         {"model.weights": None, "model.kernel_initializer": None}),
    Line("initial weights", MLPS, "Xavier's and LeCun's, by module", "mlp/timm/models/",
         f"{_MODEL_TESTS}::test_mlps_have_the_references_initial_weights",
         {"model.weights": None, "model.kernel_initializer": None}),
    Line("architecture", FAMILIES, "logits of the reference with the same weights", _MODELS,
         f"{_GOLDENS}::test_model_equals_the_references"),
    Line("normalization of the pixels", (*CNNS, *VITS), "mean and deviation of ImageNet",
         f"{_MAIN}, {_VIT_MAINS}",
         "tests/models/test_zoo.py::test_preprocessing_of_the_families", _IMAGENET),
    Line("normalization of the pixels", MLPS, "0.5 and 0.5", "mlp/timm/models/mlp_mixer.py",
         "tests/models/test_zoo.py::test_preprocessing_of_the_families",
         {"preprocess.mean": (0.5,) * 3, "preprocess.std": (0.5,) * 3}),
    Line("evaluation crop", CNNS, "short side 256, bilinear; center 224", _MAIN,
         f"{_IMAGES}/test_preprocessing.py::test_evaluation_agrees_with_pil",
         {"preprocess.resize_size": 256, "preprocess.interpolation": "bilinear",
          "preprocess.image_size": (224, 224)}),
    Line("evaluation crop", VITS, "short side 256, bicubic; center 224", _VIT_MAINS,
         f"{_IMAGES}/test_preprocessing.py::test_evaluation_agrees_with_pil",
         {"preprocess.resize_size": 256, "preprocess.interpolation": "bicubic",
          "preprocess.image_size": (224, 224)}),
    Line("evaluation crop", MLPS, "short side 224 / 0.9, bicubic; center 224", _YAML,
         f"{_IMAGES}/test_preprocessing.py::test_evaluation_agrees_with_pil",
         {"preprocess.resize_size": 248, "preprocess.interpolation": "bicubic",
          "preprocess.image_size": (224, 224)}),
    Line("precision", (*CNNS, *MLPS), "float32; AMP is an option", f"{_MAIN}, mlp/README.md",
         "tests/training/test_optimizer.py::test_rules_match_torch", {"precision": "float32"}),
    Line("precision", VITS, "float16 (AMP)", _VIT_MAINS,
         "tests/training/test_optimizer.py::test_float16_models_train_float32_weights",
         {"precision": "mixed_float16"}, "float32; `--config.precision=mixed_float16` as the "
         "reference"),
)
# fmt: on
