"""A small classifier by numpy: multinomial logistic regression, stopped early."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

STEPS = 400
LOOK_EVERY = 20
#: Every so manieth example is not trained on; it says when to stop.
HELD_OUT = 8
WEIGHT_DECAY = 1e-4

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def fit(features: Floats, labels: Labels, classes: int) -> tuple[Floats, Floats]:
    """Weights (classes, features) and biases (classes,) for raw features (N, features).

    Nesterov's accelerated gradient descent on standardised features, with the step that the
    curvature allows. Of the states looked at, the one that is right most often on held-out
    examples is taken.
    """
    mean, deviation = features.mean(0), features.std(0)
    deviation = np.where(deviation > 1e-6, deviation, 1).astype(np.float32)
    scaled = np.concatenate(
        [(features - mean) / deviation, np.ones((len(features), 1), np.float32)], 1
    )
    held = np.arange(len(labels)) % HELD_OUT == 0
    x, y = scaled[~held], labels[~held]
    target = np.eye(classes, dtype=np.float32)[y]
    step = np.float32(1 / (0.5 * _curvature(x) + WEIGHT_DECAY))
    weights = np.zeros((x.shape[1], classes), np.float32)
    ahead, best, most = weights, weights, -1
    for number in range(1, STEPS + 1):
        gradient = x.T @ (softmax(x @ ahead) - target) / len(y) + WEIGHT_DECAY * ahead
        following = ahead - step * gradient
        ahead = following + np.float32((number - 1) / (number + 2)) * (following - weights)
        weights = following
        if number % LOOK_EVERY == 0:
            right = int(((scaled[held] @ weights).argmax(1) == labels[held]).sum())
            if right > most:
                best, most = weights, right
    slopes = best[:-1] / deviation[:, np.newaxis]
    return (
        np.ascontiguousarray(slopes.T, np.float32),
        (best[-1] - mean @ slopes).astype(np.float32),
    )


def softmax(logits: Floats) -> Floats:
    """Probabilities along the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    result: Floats = powers / powers.sum(-1, keepdims=True)
    return result


def _curvature(x: Floats) -> float:
    """Largest eigenvalue of the features' second moments, by power iteration."""
    vector = np.ones(x.shape[1], np.float32)
    for _ in range(30):
        vector = x.T @ (x @ vector) / len(x)
        size = float(np.linalg.norm(vector))
        vector /= size
    return 1.05 * size
