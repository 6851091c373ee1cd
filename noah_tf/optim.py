"""Optimizers and learning-rate schedules of the recipes."""

import tensorflow as tf


def warmup_cosine(peak, total_steps, warmup_steps=0):
    """A learning-rate schedule: linear warm-up from zero to a peak, then half a cosine to zero.

    Args:
        peak: the highest learning rate.
        total_steps: steps of the whole run, after which the rate is zero.
        warmup_steps: steps of the warm-up.

    Returns:
        A Keras learning-rate schedule.
    """
    if not warmup_steps:
        return tf.keras.optimizers.schedules.CosineDecay(peak, max(total_steps, 1))
    return tf.keras.optimizers.schedules.CosineDecay(
        # Half a step up, so that the first step already moves.
        0.5 * peak / warmup_steps,
        max(total_steps - warmup_steps, 1),
        warmup_target=peak,
        warmup_steps=warmup_steps,
    )


def make_optimizer(config, variables, total_steps, steps_per_epoch):
    """The optimizer of a recipe.

    Args:
        config: `name` ("sgd" or "adamw"), `learning_rate`, `weight_decay`, `warmup_epochs` and,
            for SGD, `momentum`.
        variables: the weights that it will train.
        total_steps: steps of the whole run.
        steps_per_epoch: steps of one epoch.

    Returns:
        A Keras optimizer, with loss scaling under mixed_float16. AdamW's weight decay is
        decoupled and spares biases and normalization. SGD's is not Keras's, which is decoupled
        too: the recipes want it in the gradient, where `l2_loss` puts it.

    Raises:
        ValueError: an unknown name.
    """
    schedule = warmup_cosine(
        config.learning_rate, total_steps, round(config.warmup_epochs * steps_per_epoch)
    )
    if config.name == "sgd":
        optimizer = tf.keras.optimizers.SGD(schedule, momentum=config.momentum)
    elif config.name == "adamw":
        optimizer = tf.keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay)
        optimizer.exclude_from_weight_decay([v for v in variables if not is_decayed(v)])
    else:
        raise ValueError(f"optimizer.name must be 'sgd' or 'adamw', got {config.name!r}.")
    if tf.keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer


def is_decayed(weight):
    """Whether weight decay shrinks a weight: kernels yes, biases and normalization no."""
    # Keras 2 puts the layer's path in front of the name.
    return len(weight.shape) > 1 and "bias" not in weight.name.split("/")[-1]


def l2_loss(config, variables):
    """SGD's weight decay as a loss, which puts it into the gradient; 0 for other optimizers."""
    if config.name != "sgd" or not config.weight_decay:
        return 0.0
    decayed = [tf.nn.l2_loss(tf.cast(v, tf.float32)) for v in variables if is_decayed(v)]
    return config.weight_decay * sum(decayed)


def scale_loss(optimizer, loss):
    """The loss to differentiate: multiplied by the loss scale under mixed_float16."""
    if not isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        return loss
    # Keras 3 unscales in `apply_gradients` by itself, Keras 2 leaves it to the caller.
    scale = getattr(optimizer, "scale_loss", None) or optimizer.get_scaled_loss
    return scale(loss)


def unscale_gradients(optimizer, gradients):
    """The gradients to hand to `apply_gradients`."""
    if hasattr(optimizer, "get_unscaled_gradients"):
        return optimizer.get_unscaled_gradients(gradients)
    return gradients
