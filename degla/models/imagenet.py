"""The words for ImageNet: OpenAI's class names and its 80 templates, as open_clip keeps them."""

from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

IMAGENET_CLASSES = list(IMAGENET_CLASSNAMES)
IMAGENET_TEMPLATES = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
