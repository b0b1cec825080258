"""What developers of vlmscope use beside the package; run from the root of the repository.

``demo_world`` generates the images and questions of the demo and trains its model; ``standin``
builds a Llama-3.2-Vision of any size with random weights, for tests, fault injection and
benchmarks.
"""
