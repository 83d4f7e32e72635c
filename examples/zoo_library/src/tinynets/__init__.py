"""Four small architectures: `create_model("tiny_resnet", num_classes=10)`."""

from tinynets.models import TinyDeit, TinyMlp, TinyResNet, TinySqueeze
from tinynets.registry import create_model, list_models

__all__ = ["TinyDeit", "TinyMlp", "TinyResNet", "TinySqueeze", "create_model", "list_models"]
