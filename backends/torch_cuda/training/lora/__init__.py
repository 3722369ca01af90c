"""Training of LoRAs by artists: a folder of pictures with captions becomes a file for `--lora`.

The same flow matching, stepper and checkpoints as in the rest of the training, on weights as the engine loads
them (any model of the catalog, any precision, quantised or not), so what is trained is what is run.
"""
