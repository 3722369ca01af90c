"""A request, carried out on any backend: `engine` runs the stages, one module each, over one `Job`."""

from flux_core.pipeline.engine import FluxEngine, out_of_memory

__all__ = ["FluxEngine", "out_of_memory"]
