"""Old place of :mod:`~anomaly_suite.data.images.image_files`."""

from anomaly_suite.data.images.image_files import Found, ImageFileModule, ImageFiles, Item

__all__ = ["Found", "ImageFileModule", "ImageFiles", "Item"]
