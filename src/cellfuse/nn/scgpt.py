"""scGPT (Cui et al., Nature Methods 2024): the encoder, and its released checkpoints.

A cell is a set of (gene, value) pairs with ``<cls>`` in front; both are embedded and added, and a
post-norm transformer reads them. The decoders of its pretraining are not part of this module.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse._errors import listing
from cellfuse.nn.blocks import Attention
from cellfuse.nn.checkpoints import read_tensors
from cellfuse.nn.dropout import Dropout

__all__ = ["ScGPT", "ScGPTCheckpoint", "read_scgpt"]

VOCABULARY, SETTINGS, WEIGHTS = "vocab.json", "args.json", "best_model.pt"
SAFE_WEIGHTS = "best_model.safetensors"
#: The value encoder clips its input here, as the authors' code does.
MAX_VALUE = 512.0


class GeneEmbedding(nn.Module):
    """A learned vector per gene, normalised."""

    def __init__(self, n_tokens: int, width: int, pad: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, width, padding_idx=pad)
        self.norm = nn.LayerNorm(width)

    def forward(self, genes: Tensor) -> Tensor:
        return self.norm(self.embedding(genes))


class ValueEmbedding(nn.Module):
    """A number through a two-layer MLP, normalised."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(1, width)
        self.second = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        x = F.relu(self.first(values.clamp(max=MAX_VALUE)[..., None]))
        return self.dropout(self.norm(self.second(x)))


class PostNormBlock(nn.Module):
    """Self-attention, then MLP, each added to its input and the sum normalised."""

    def __init__(self, width: int, n_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, n_heads)
        self.norm_attention = nn.LayerNorm(width)
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norm_attention(x + self.dropout(self.attention(x, x, mask)))
        hidden = self.dropout(F.relu(self.first(x)))
        return self.norm_mlp(x + self.dropout(self.second(hidden)))


class ScGPT(nn.Module):
    """Encoder of scGPT, a plain module that can be trained on.

    Parameters
    ----------
    n_tokens
        Size of the vocabulary, special tokens among them.
    width, n_heads, hidden, n_layers
        Sizes of the transformer (512, 8, 512, 12 in the released checkpoints).
    pad
        Number of the token ``<pad>``.
    dropout
        In training only; not inside the attention.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn.scgpt import ScGPT
    >>> encoder = ScGPT(10, width=8, n_heads=2, hidden=8, n_layers=1, pad=0).eval()
    >>> encoder(torch.tensor([[1, 4, 5]]), torch.tensor([[-2.0, 7.0, 30.0]])).shape
    torch.Size([1, 3, 8])
    """

    def __init__(
        self,
        n_tokens: int,
        *,
        width: int,
        n_heads: int,
        hidden: int,
        n_layers: int,
        pad: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.pad = width, pad
        self.genes = GeneEmbedding(n_tokens, width, pad)
        self.values = ValueEmbedding(width, dropout)
        self.blocks = nn.ModuleList(
            [PostNormBlock(width, n_heads, hidden, dropout) for _ in range(n_layers)]
        )

    def forward(self, genes: Tensor, values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Encode cells.

        Parameters
        ----------
        genes
            Token numbers, ``(B, L)`` int64.
        values
            Their values, ``(B, L)`` float.
        padding_mask
            ``(B, L)`` bool, True where a token is padding and is attended to by none. None: there
            is no padding.

        Returns
        -------
        ``(B, L, width)``; what stands at padding means nothing.
        """
        x = self.genes(genes) + self.values(values)
        mask = None if padding_mask is None else ~padding_mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        return x


@dataclass(frozen=True)
class ScGPTCheckpoint:
    """What a checkpoint folder holds.

    Parameters
    ----------
    encoder
        The network with its weights, in evaluation mode.
    vocabulary
        Token numbers by gene name; ``<pad>``, ``<cls>`` and ``<eoc>`` among them.
    pad, cls
        Numbers of the two tokens that every cell needs.
    pad_value
        Value of ``<cls>`` and of padding.
    """

    encoder: ScGPT
    vocabulary: dict[str, int]
    pad: int
    cls: int
    pad_value: float


def read_scgpt(folder: str | Path) -> ScGPTCheckpoint:
    """Read a folder of scGPT's authors: ``vocab.json``, ``args.json``, ``best_model.pt``.

    The weights are read as tensors (``weights_only=True``); ``best_model.safetensors`` is taken
    where it exists. Attention may be stored fused for flash-attn (``Wqkv``) or as torch has it
    (``in_proj``). The decoders are left out.

    Raises
    ------
    FileNotFoundError
        The folder or one of its files is missing.
    ValueError
        A setting or a weight is missing, has another shape, or belongs to a variant that is not
        read (normalisation before the layers, batch labels inside the encoder, binned values as
        categories); the file holds pickled code.
    """
    source = Path(folder)
    if not source.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(source)!r}; a checkpoint of scGPT is a folder with "
            f"{VOCABULARY}, {SETTINGS} and {WEIGHTS}."
        )
    vocabulary = _read_vocabulary(source / VOCABULARY)
    settings = _read_settings(source / SETTINGS)
    pad_token = str(settings["pad_token"])
    for token in (pad_token, "<cls>"):
        if token not in vocabulary:
            raise ValueError(f"{str(source / VOCABULARY)!r} has no token {token!r}.")
    safe = source / SAFE_WEIGHTS
    path = safe if safe.is_file() else source / WEIGHTS
    tensors = _rename(read_tensors(path), path)
    embedding = tensors.get("genes.embedding.weight")
    if embedding is not None and max(vocabulary.values()) >= len(embedding):
        raise ValueError(
            f"{VOCABULARY} has tokens up to number {max(vocabulary.values())}, the weights in "
            f"{str(path)!r} only {len(embedding)} of them: the files do not belong together."
        )
    encoder = ScGPT(
        len(vocabulary) if embedding is None else len(embedding),
        width=int(settings["embsize"]),
        n_heads=int(settings["nheads"]),
        hidden=int(settings["d_hid"]),
        n_layers=int(settings["nlayers"]),
        pad=vocabulary[pad_token],
        dropout=float(settings.get("dropout", 0.0)),
    )
    _check_weights(encoder, tensors, path)
    encoder.load_state_dict(tensors)
    return ScGPTCheckpoint(
        encoder.eval(),
        vocabulary,
        vocabulary[pad_token],
        vocabulary["<cls>"],
        float(settings["pad_value"]),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(path)!r} does not exist; a checkpoint of scGPT is a folder with {VOCABULARY}, "
            f"{SETTINGS} and {WEIGHTS}."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} holds a {type(found).__name__}, expected a dict.")
    return found


def _read_vocabulary(path: Path) -> dict[str, int]:
    found = _read_json(path)
    wrong = [name for name, number in found.items() if not isinstance(number, int) or number < 0]
    if wrong or not found:
        raise ValueError(
            f"{str(path)!r} must give each gene a token number from 0; not so: {listing(wrong)}."
        )
    return found


def _read_settings(path: Path) -> dict[str, Any]:
    settings = {"pad_token": "<pad>", **_read_json(path)}
    needed = ("embsize", "nheads", "d_hid", "nlayers", "pad_value")
    lacking = [name for name in needed if name not in settings]
    if lacking:
        raise ValueError(f"{str(path)!r} lacks {listing(lacking)}.")
    style = settings.get("input_emb_style", "continuous")
    if style != "continuous" or settings.get("pre_norm"):
        raise ValueError(
            f"{str(path)!r} has input_emb_style={style!r} and "
            f"pre_norm={bool(settings.get('pre_norm'))}; only the released kind is read, "
            "'continuous' and False."
        )
    return settings


# -- names of the weights -------------------------------------------------------------------------

#: Parts that only pretraining needs: decoders, and the attention of genes that are generated.
LEFT_OUT = re.compile(
    r"^(decoder|mvc_decoder|cls_decoder|flag_encoder|batch_encoder|grad_reverse_discriminator|sim)\."
    r"|\.self_attn\.(cross_attn|self_attn)\."
)
NAMES = (
    (r"^encoder\.embedding\.", "genes.embedding."),
    (r"^encoder\.enc_norm\.", "genes.norm."),
    (r"^value_encoder\.linear1\.", "values.first."),
    (r"^value_encoder\.linear2\.", "values.second."),
    (r"^value_encoder\.norm\.", "values.norm."),
    (r"^transformer_encoder\.layers\.", "blocks."),
    (r"\.self_attn\.(_impl\.)?Wqkv\.", ".attention.qkv."),
    (r"\.self_attn\.in_proj_", ".attention.qkv."),
    (r"\.self_attn\.(_impl\.)?out_proj\.", ".attention.out."),
    (r"^(blocks\.\d+)\.linear1\.", r"\1.first."),
    (r"^(blocks\.\d+)\.linear2\.", r"\1.second."),
    (r"^(blocks\.\d+)\.norm1\.", r"\1.norm_attention."),
    (r"^(blocks\.\d+)\.norm2\.", r"\1.norm_mlp."),
)


def _rename(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    if any(name.startswith("dsbn.") for name in tensors):
        raise ValueError(
            f"{str(path)!r} normalises by batch label inside the encoder (dsbn), a fine-tuned "
            "variant that knows its own batches only; give a pretrained checkpoint."
        )
    out = {}
    for name, tensor in tensors.items():
        if LEFT_OUT.search(name):
            continue
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        tensor = tensor.to(torch.float32)
        if ".attention.qkv." in name:  # queries, keys and values one below the other
            third = len(tensor) // 3
            out[name.replace(".qkv.", ".query.")] = tensor[:third]
            out[name.replace(".qkv.", ".key_value.")] = tensor[third:]
        else:
            out[name] = tensor
    return out


def _check_weights(encoder: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    expected = {name: tuple(t.shape) for name, t in encoder.state_dict().items()}
    missing = sorted(set(expected) - set(tensors))
    unknown = sorted(set(tensors) - set(expected))
    if missing or unknown:
        raise ValueError(
            f"the weights in {str(path)!r} are not those of scGPT's encoder with the sizes of "
            f"{SETTINGS}: missing {listing(missing, 4)}; unknown {listing(unknown, 4)}."
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(
                f"{name} in {str(path)!r} has shape {tuple(tensors[name].shape)}; the sizes in "
                f"{SETTINGS} make it {shape}."
            )
