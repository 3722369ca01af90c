"""What must be set before any library is imported."""

import os

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # or MLX multiplies float32 matrices in less than float32
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve a busy machine
