"""MLX is run here, too."""

from tests.support import blas

blas.lend_to_mlx()
