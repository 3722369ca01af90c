"""Training data for the bundled tiny family: sources, sprites, scenes, captions and the composer.

Everything the model learns from is made here from permissively licensed pictures: single objects
are rasterised once into one pack file, scenes are sampled as plain specifications with truthful
captions, and a batched composer draws them on the device that trains.
"""
