"""Transfer: what is learnt on one labelled run, evaluated on others.

- ``targets``: the runs to evaluate on, and what they share with the training run
- ``fits``: fits on one run, risks on another; everything is chosen in training
- ``run``: the whole transfer
- ``verdict``: what it says, in sentences
- ``save``: a transfer on disk, beside the sweep of the training run
"""
