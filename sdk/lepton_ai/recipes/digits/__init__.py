"""Trains a convolutional network to read handwritten digits, in plain torch.

``torchrun --nproc-per-node 2 -m lepton_ai.recipes.digits --epochs=3`` or, alone,
``python -m lepton_ai.recipes.digits --epochs=3``; needs the extra ``sdk`` and the data set
``mnist``. The model is left in LEPTON_OUTPUT_DIR, or in ``./output``.
"""
