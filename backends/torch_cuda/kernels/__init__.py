"""What is between the large products of a block, on a GPU; `fused.py` and `fused_images.py` call it.

Each Triton kernel is one pass over memory: it reads what the product before has left and writes what the next
one takes, also as eight-bit floats with a scale for each row. Importing a module here imports triton; nothing
that runs without a GPU does that, but for tests, which set TRITON_INTERPRET=1 first.
"""
