"""Prints the scalars and images of a directory of event files as TensorBoard reads them, as JSON.

tensorboard.py DIRECTORY    needs the package tensorboard
"""
import json
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
tags = events.Tags()
print(json.dumps({
    "scalars": {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]},
    # The size as TensorBoard has it, and as the PNG file does.
    "images": {tag: [[e.step, e.width, e.height, *struct.unpack(">II", e.encoded_image_string[16:24])]
                     for e in events.Images(tag)] for tag in tags["images"]},
}))
