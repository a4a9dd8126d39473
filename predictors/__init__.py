"""Predictors: what a plan costs and what it is worth, known before anything breaks.

*Latency*: ``operators`` and ``extract`` describe what a block computes, ``grid`` and
``single_op`` what is measured of a kind of box, ``profiling`` measures it, ``profile`` keeps
it, ``latency`` learns from it, ``plans`` adds up. Measuring needs the runtime and numpy;
learning needs the extra ``predictors``. Nothing that decides imports this package.
"""
