"""Calibration and evaluation data: images from folders, arrays or the embedded demo set, and their preprocessing."""

from repq_deploy.calib_data.images import LoadedImages, iterate_batches, load_sample
from repq_deploy.calib_data.preprocess import Preprocess
from repq_deploy.calib_data.sources import ImageSource, open_images

__all__ = [
    "ImageSource",
    "LoadedImages",
    "Preprocess",
    "iterate_batches",
    "load_sample",
    "open_images",
]
