"""Hugging Face transformers: their decoders as models to find circuits in, and weight-sparse transformers as theirs.

Importing this registers weight-sparse transformers with their Auto classes:

    import gossamer.models.huggingface
    model = transformers.AutoModelForCausalLM.from_pretrained("a/folder/of/gossamer-export")

transformers has no entry points: a process that does not import this does not know the model type.
"""

from __future__ import annotations

from gossamer.errors import BadInput

try:
    import transformers
except ImportError as error:
    raise BadInput("Hugging Face folders need transformers: pip install 'gossamer-interp[hf]'.") from error

from gossamer.models.huggingface.blocks import Blocks
from gossamer.models.huggingface.channels import Channels, channels_of
from gossamer.models.huggingface.decoder import Decoder, decoder_of, load_decoder
from gossamer.models.huggingface.means import Means
from gossamer.models.huggingface.sparse import GossamerConfig, GossamerForCausalLM, export_huggingface

__all__ = [
    "Blocks", "Channels", "Decoder", "GossamerConfig", "GossamerForCausalLM", "Means", "channels_of", "decoder_of",
    "export_huggingface", "load_decoder",
]  # fmt: skip

transformers.AutoConfig.register(GossamerConfig.model_type, GossamerConfig, exist_ok=True)
transformers.AutoModelForCausalLM.register(GossamerConfig, GossamerForCausalLM, exist_ok=True)
