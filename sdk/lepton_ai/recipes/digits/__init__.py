"""Trains a convolutional network to read handwritten digits, in plain torch.

``torchrun --nproc-per-node 2 -m lepton_ai.recipes.digits --epochs=3`` or, alone,
``python -m lepton_ai.recipes.digits --epochs=3``; needs the extra ``sdk`` and the data set
``mnist``. The model is left in LEPTON_OUTPUT_DIR, or in ``./output``.
"""

import os

# OpenMP's threads spin between the layers of so small a network. Asleep they leave shared cores
# to others: an epoch on two busy cores took 6.7 s of CPU, not 14.5. Read as torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
