"""Language models in numpy and Numba: GPT-2 and Llama, their checkpoints and tokenizers."""

from lamp.models import attention, checkpoints, layers, loading, packed, transformer
from lamp.models.calibration import calibrated
from lamp.models.certificates import Certificate, certify
from lamp.models.continuation import Continuation
from lamp.models.decoder import Decoder
from lamp.models.gpt2 import GPT2
from lamp.models.llama import Llama
from lamp.models.loading import from_pretrained, reader
from lamp.models.propagation import FirstOrder, first_order
from lamp.models.reading import Reading
from lamp.models.rotary import Rotary
from lamp.models.sampling import Sampler
from lamp.models.tokenizer import Tokenizer
from lamp.models.tokens import check_tokens
from lamp.models.traces import DepthMap, Trace
from lamp.models.transformer import Forward, State
from lamp.models.weights import Shape

__all__ = [
    "GPT2",
    "Certificate",
    "Continuation",
    "Decoder",
    "DepthMap",
    "FirstOrder",
    "Forward",
    "Llama",
    "Reading",
    "Rotary",
    "Sampler",
    "Shape",
    "State",
    "Tokenizer",
    "Trace",
    "attention",
    "calibrated",
    "certify",
    "check_tokens",
    "checkpoints",
    "first_order",
    "from_pretrained",
    "layers",
    "loading",
    "packed",
    "reader",
    "transformer",
]
