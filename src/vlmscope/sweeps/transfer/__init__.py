"""Transfer: probes and baselines trained on one labelled run, evaluated on others.

- ``targets``: the runs to evaluate on, and their overlap with the training run
- ``fits``: fits on one run, risks on another; all choices are made in training
- ``run``: the complete transfer
- ``verdict``: its findings, in sentences
- ``save``: writing of a transfer, in the folder of the training run's sweep
"""
