"""``ClipModel``, through which all of this project calls a CLIP model."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from degla.compat.torch import allow_recompiles
from degla.models.encoding import Encoding, encode_patches, encode_words, read_all_states_
from degla.models.lora_state import LoraSettings, merge_lora
from degla.models.packing import PackedTexts
from degla.models.source import ModelSource
from degla.models.text import encode_text, pack_tokens
from degla.models.text_attention import MAX_VERSIONS
from degla.models.tokenizer import CaptionTokenizer

MAX_LOG_SCALE = math.log(100.0)


class ClipModel(nn.Module):
    """An open_clip model with its preprocessing and tokenizer, behind one forward call.

    One call encodes images and texts together. FSDP2 needs that, and it makes a step one text forward. Features are
    float32 with unit norm, whatever precision the towers ran in.

    Args:
        clip: an open_clip ``CLIP`` or ``CustomTextCLIP``.
        config: its open_clip ``model_cfg``, kept for export (its ``quick_gelu`` is what was built).
        preprocess: its open_clip ``preprocess_cfg`` (``mean``, ``std``, ``interpolation``, ``resize_mode``).
        tokenizer: turns captions into token ids for this model.
        source: where architecture and weights come from, for labels and records.
        merges: file of its tokenizer's byte-pair merges, kept for export; None where they are CLIP's.
    """

    pixel_mean: Tensor  # (1, 3, 1, 1)
    pixel_std: Tensor  # (1, 3, 1, 1)

    def __init__(
        self,
        clip: CLIP | CustomTextCLIP,
        config: dict[str, Any],
        preprocess: dict[str, Any],
        tokenizer: CaptionTokenizer,
        source: ModelSource,
        merges: Path | None = None,
    ):
        super().__init__()
        self.clip: CLIP | CustomTextCLIP = clip
        self.config = config
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.source = source
        self.merges = merges
        self.reads_tokens = False
        self.lora: LoraSettings | None = None  # the adapter that ``Lora.attach`` has given the model
        # Batches travel as uint8, a quarter of the size of float32, and are normalised on the device.
        mean, std = (torch.tensor(preprocess[key]).view(1, 3, 1, 1) * 255 for key in ("mean", "std"))
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size = self.clip.visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return height, width

    def forward(self, images: Tensor, texts: Tensor | PackedTexts) -> Encoding:
        """Encode images and texts.

        Args:
            images: ``(B, 3, H, W)`` uint8.
            texts: M texts, packed, or as ``(M, L)`` int64 tokens; L may be shorter than the context where the text
                tower is causal.

        Returns:
            ``(B, D)`` image features, ``(M, D)`` text features, both float32 and unit norm, and the ``()`` multiplier
            ``exp(logit_scale)``; after ``read_tokens_`` also features of patches and words.
        """
        if self.reads_tokens:
            return self._encode_with_tokens(images, texts)
        return Encoding(
            image=self.encode_image(images),
            text=self.encode_text(texts),
            logit_scale=self.logit_scale(),
            logit_bias=self.logit_bias(),
        )

    def _encode_with_tokens(self, images: Tensor, texts: Tensor | PackedTexts) -> Encoding:
        image, patches = encode_patches(self.clip, self._pixels(images))
        packed = pack_tokens(self.clip, texts) if isinstance(texts, Tensor) else texts
        text, tokens, token_mask = encode_words(self.clip, packed)
        return Encoding(
            image=F.normalize(image.float(), dim=-1),
            text=F.normalize(text.float(), dim=-1),
            logit_scale=self.logit_scale(),
            logit_bias=self.logit_bias(),
            patches=patches.float(),
            tokens=tokens.float(),
            token_mask=token_mask,
        )

    def read_tokens_(self) -> None:
        """Return features of patches and words from now on, which needs all states of the last blocks.

        Raises:
            ConfigError: a tower has no such features.
        """
        read_all_states_(self.clip)
        self.reads_tokens = True

    def open_clip_state(self, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the weights under open_clip's names, with an adapter merged into them.

        Args:
            state: weights of ``clip`` where the model's own are sharded; None takes those of the model.
        """
        weights = dict(self.clip.state_dict() if state is None else state)
        return weights if self.lora is None else merge_lora(weights, self.lora.scaling)

    def logit_scale(self) -> Tensor:
        """Return the ``()`` multiplier, already exponentiated."""
        scale: Tensor = self.clip.logit_scale
        return scale.float().exp().squeeze()

    def logit_bias(self) -> Tensor | None:
        """Return the ``()`` bias of a model with a sigmoid loss; None of others."""
        bias: Tensor | None = self.clip.logit_bias
        # A copy, because FSDP2 frees the storage of its parameters after the forward pass.
        return None if bias is None else bias.float().squeeze().clone()

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode ``(B, 3, H, W)`` uint8 images to ``(B, D)`` float32 features of unit norm."""
        pixels = self._pixels(images)
        pooled = encode_patches(self.clip, pixels)[0] if self.reads_tokens else self.clip.encode_image(pixels)
        return F.normalize(pooled.float(), dim=-1)

    def _pixels(self, images: Tensor) -> Tensor:
        """Return normalised ``(B, 3, H, W)`` pixels."""
        return (images.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std

    def encode_text(self, texts: Tensor | PackedTexts) -> Tensor:
        """Encode M texts, given as for ``forward``, to ``(M, D)`` float32 features of unit norm."""
        if self.reads_tokens:
            packed = pack_tokens(self.clip, texts) if isinstance(texts, Tensor) else texts
            return F.normalize(encode_words(self.clip, packed)[0].float(), dim=-1)
        return F.normalize(encode_text(self.clip, texts).float(), dim=-1)

    def compile_blocks(self) -> None:
        """Compile each transformer block with ``torch.compile``, in place; names of parameters stay.

        The blocks of a tower are alike, so one compilation serves all of them. Shapes are dynamic, so that another
        number of texts or another length does not compile again. Another number of groups does, unless the texts are
        packed with their prefix tree.
        """
        allow_recompiles(MAX_VERSIONS)
        for module in self.modules():
            if isinstance(module, ResidualAttentionBlock):
                module.compile(dynamic=True)

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the multiplier at 100 or below, as CLIP does (Radford et al. 2021, section 2.5).

        Where an adapter has frozen it, the base model's value stays, which teachers may share. A sigmoid loss, with a
        bias that learns, has no such bound; SigLIP's published multipliers are above 100.
        """
        has_sigmoid_loss = self.clip.logit_bias is not None and self.clip.logit_bias.requires_grad
        if not has_sigmoid_loss and (self.lora is None or self.clip.logit_scale.requires_grad):
            self.clip.logit_scale.clamp_(max=MAX_LOG_SCALE)
