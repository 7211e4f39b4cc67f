"""Which detector a pickle holds, by the names in it: so that what cannot be read is at least called by its name."""

from __future__ import annotations

from collections.abc import Collection

READABLE = "it reads checkpoints of YOLOv5 v6 and v7, and of YOLOv8 and YOLO11 with the extra ultralytics"

_FAMILIES = (
    ("a YOLOv7 checkpoint",
     ("models.yolo.IDetect", "models.yolo.IAuxDetect", "models.common.RepConv", "models.common.MP")),
    ("a YOLOv9 checkpoint", ("models.common.RepNCSPELAN4", "models.yolo.DDetect", "models.yolo.DualDDetect")),
    ("a YOLOv5 segmentation checkpoint", ("models.yolo.SegmentationModel",)),
    ("a YOLOv5 classification checkpoint", ("models.yolo.ClassificationModel",)),
    ("a YOLOR checkpoint", ("models.models.Darknet",)),
    ("a YOLOX checkpoint", ("yolox.",)),
    ("a YOLOv6 checkpoint", ("yolov6.",)),
    ("a YOLO-NAS checkpoint", ("super_gradients.",)),
    ("an RT-DETR checkpoint", ("ultralytics.nn.tasks.RTDETRDetectionModel", "src.zoo.rtdetr.")),
    ("an Ultralytics segmentation checkpoint", ("ultralytics.nn.tasks.SegmentationModel",)),
    ("an Ultralytics pose checkpoint", ("ultralytics.nn.tasks.PoseModel",)),
    ("an Ultralytics checkpoint for oriented boxes", ("ultralytics.nn.tasks.OBBModel",)),
    ("an Ultralytics classification checkpoint", ("ultralytics.nn.tasks.ClassificationModel",)),
    ("a YOLO-World checkpoint", ("ultralytics.nn.tasks.WorldModel",)),
    ("a YOLOv10 checkpoint",
     ("ultralytics.nn.modules.head.v10Detect", "ultralytics.nn.tasks.YOLOv10DetectionModel")),
    ("a YOLOv9 checkpoint", ("ultralytics.nn.modules.block.RepNCSPELAN4", "ultralytics.nn.modules.block.ELAN1")),
    ("a YOLO12 checkpoint", ("ultralytics.nn.modules.block.A2C2f",)),
    ("an Ultralytics checkpoint of another task or family", ("ultralytics.",)),
    ("a YOLO detector checkpoint", ("models.yolo.", "models.common.")),
)
"""What to call it, and the names (whole, or up to their last dot) that give it away; the first that fits is it."""


def of(names: Collection[str]) -> str:
    """Return what kind of detector checkpoint names these things, or ``""`` for none known."""
    for family, marks in _FAMILIES:
        if any(name.startswith(mark) if mark.endswith(".") else name == mark for mark in marks for name in names):
            return family
    return ""
