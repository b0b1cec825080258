"""What a child imports while it works, imported once by the fork server: imports, and no threads.

A child then takes a second and not six, and more of the kills fall on the work.
"""

import accelerate
import PIL.Image
import torch._dynamo
import transformers.models.auto.modeling_auto
import transformers.models.auto.processing_auto
import transformers.models.mllama.modeling_mllama
import transformers.models.mllama.processing_mllama
import typer._adapters  # noqa: F401 - imported for what it imports

import faults.poison
import vlmscope.cli.extract
import vlmscope.cli.progress
import vlmscope.cli.verify
import vlmscope.executors.local
import vlmscope.verification

PIL.Image.init()
WARM = (accelerate, torch, transformers, faults.poison, vlmscope.cli.extract)
