"""Models of others: cutting any ``.tflite`` into a bundle, and giving it exits. No TensorFlow."""
