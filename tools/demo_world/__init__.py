"""The world that the demo's images show, the questions about it, and the model trained on both.

What ``vlmscope demo`` runs on, the data in ``src/vlmscope/demo``, was made here; docs/demo.md has
the commands.

Images and questions, whose truth is exact:

- ``world``: the kinds of things, their colours, and where they usually are;
- ``scenes``: draws scenes, which are data;
- ``drawing``: paints a scene; ``icons`` and ``icons_garden`` paint the things, with ``pen``;
- ``questions``: asks about a scene, by category;
- ``bundle``: writes a table of questions with a folder of images.

The model:

- ``train``: trains it from nothing: ``python -m tools.demo_world.train --out demo-model``;
- ``sources``: where its training examples come from, the generated world and easy-VQA;
- ``targets``: what the vision encoder is told about an image beside the answers;
- ``examples``: the examples as flat arrays, made by many processes;
- ``batches``: batches of them on the device;
- ``steps``: one training step;
- ``held_out``: the share of right answers on images that it is not trained on;
- ``measure``: measures it and writes its card: ``python -m tools.demo_world.measure``;
- ``verdict``: whether an answer is right, and whether a wrong one is a hallucination;
- ``card``: the model card.
"""
