"""The networks that CONTINUER ships, and the tools that cut a network into a bundle.

Only ``models.resnet32`` and ``models.convert`` import Keras and TensorFlow, and only
``models.build`` imports those two: everything that runs on a box does without them.
"""
