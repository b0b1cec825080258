"""What the commands do, for Python: the functions that ``import vlmscope`` offers above the stages.

extracting  ``extract``: a table, in a file or in memory, through a model into a run
capturing   ``capture``: the same without a run, row by row
watching    progress of ``extract``: a progress bar, an observer
options     arguments that these and ``inspect`` share
checking    ``verify`` and ``inspect``, and the probe of a path
runs        a run as arrays, labels and predictions, for scikit-learn and pandas
torch_data  the same for PyTorch

Nothing is imported here: a run can be read without torch.
"""
