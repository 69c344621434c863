"""Unlabelled images for the stages: files and folders, whatever Python has, and sets of either."""

from sparsight.images.decode import Picture, decoded, read_picture
from sparsight.images.files import IMAGENET_MEAN, IMAGENET_STD, ImageFiles, ImageFolder, to_tensor
from sparsight.images.folder import Found, image_files, is_passed_over, look_through
from sparsight.images.given import Pictures, pictures_of
from sparsight.images.names import short_name, shown
from sparsight.images.resolution import check_resolution, parse_resolution
from sparsight.images.sets import Held, Images, Item, Items, Reader, left_out, named
from sparsight.images.wanted import Wanted, normal_of

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Found",
    "Held",
    "ImageFiles",
    "ImageFolder",
    "Images",
    "Item",
    "Items",
    "Picture",
    "Pictures",
    "Reader",
    "Wanted",
    "check_resolution",
    "decoded",
    "image_files",
    "is_passed_over",
    "left_out",
    "look_through",
    "named",
    "normal_of",
    "parse_resolution",
    "pictures_of",
    "read_picture",
    "short_name",
    "shown",
    "to_tensor",
]
