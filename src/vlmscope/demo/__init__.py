"""What ``vlmscope demo`` runs on, so that nobody needs an 11-billion-parameter download to try it.

Data only: ``model/``, a small Llama-3.2-Vision trained on generated images; ``questions.csv``,
2,000 questions whose answers are known exactly; ``images/``, the 600 images that they are about.
``tools/demo_world`` in the repository made all three.
"""
