"""The networks that CONTINUER ships, and the tools that train, cut and convert networks.

A network is written once (``resnet32``, ``mobilenetv2``) against ``models.ops``. Only
``models.ops_torch`` and the modules ``train_step``, ``train_measure`` and ``train_loop``
import PyTorch; only ``models.ops_keras`` and ``models.convert`` import Keras and TensorFlow.
The weight file is where the two meet. Nothing that runs on a box imports any of these.
"""
