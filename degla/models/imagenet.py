"""OpenAI's class names and 80 templates for ImageNet, from open_clip."""

from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

IMAGENET_CLASSES: list[str] = list(IMAGENET_CLASSNAMES)
IMAGENET_TEMPLATES: list[str] = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
