"""The forward pass on different engines: our own decoder, transformers, llama.cpp."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ropepatch.errors import InputError, UsageError
from ropepatch.methods.base import Frequencies

if TYPE_CHECKING:
    from ropepatch.checkpoint import Checkpoint
    from ropepatch.profile import RopeProfile
    from ropepatch.verify.decoder import Decoder

#: engine -> (module, the extra that brings it)
_NEEDED = {
    "torch":        (("torch", "torch"),),
    "transformers": (("torch", "torch"), ("transformers", "transformers")),
    "llama.cpp":    (("torch", "torch"), ("xllamacpp", "llamacpp")),
}  # fmt: skip
Array = npt.NDArray[np.float64]


class Engine(Protocol):
    """A loaded model."""

    @property
    def name(self) -> str:
        """As the command line calls it."""

    @property
    def version(self) -> str:
        """That of the library."""

    def rotations(self) -> dict[str, Frequencies] | None:
        """What the loaded module rotates by, per group; None where the engine does not show it."""

    def log_probabilities(self, tokens: Sequence[int], positions: Sequence[int], at: Sequence[int]) -> Array:
        """Log-probabilities of the next token after the tokens at indices ``at``; (len(at), vocabulary)."""


def device_of(wanted: str) -> str:
    """``cuda`` or ``cpu``; ``auto`` takes CUDA where torch sees it.

    Raises:
        UsageError: CUDA was asked for and is not there.
    """
    with needs("torch", "torch"):
        import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UsageError("torch sees no CUDA device", hint="--device cpu works everywhere")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and there) else "cpu"


def suitable(checkpoint: Checkpoint) -> str:
    """The built-in decoder where it knows the model, else the engine that reads the format."""
    from ropepatch.verify import shape

    source = checkpoint.profile.source
    if source.architecture in (shape.GGUF_ARCHITECTURES if source.format == "gguf" else shape.HF_TYPES):
        return "torch"
    return "llama.cpp" if source.format == "gguf" else "transformers"


def require(engine: str) -> None:
    """Import what an engine needs.

    Raises:
        UsageError: it is not installed.
    """
    import importlib

    # All are held against the built-in decoder, which needs torch.
    for module, extra in _NEEDED[engine]:
        with needs(module, extra):
            importlib.import_module(module)


@contextlib.contextmanager
def needs(module: str, extra: str) -> Iterator[None]:
    """A missing optional dependency as a usage error that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != module:
            raise
        raise UsageError(f"this needs {module}", hint=f"pip install 'ropepatch[{extra}]'") from None


@dataclass
class TorchEngine:
    """Our own decoder."""

    decoder: Decoder
    name: str = "torch"

    @property
    def version(self) -> str:
        """torch's."""
        import torch

        return str(torch.__version__)

    def rotations(self) -> dict[str, Frequencies]:
        """The buffers that the decoder holds."""
        found = {}
        for rope, inv_freq, scale in zip(
            self.decoder.ropes, self.decoder.inv_freq, self.decoder.attention_scale, strict=True
        ):
            if rope.inv_freq.size:
                found[rope.group] = Frequencies(inv_freq.cpu().double().numpy(), scale)
        return found

    @contextlib.contextmanager
    def rotating(self, live: Mapping[str, Frequencies]) -> Iterator[None]:
        """In the block, by the frequencies that another engine's module holds, with angles in float32 as there.

        What is left between the two is arithmetic: at position 32,767 the last bit of a frequency, and of an angle, are
        worth a hundred times as much.
        """
        import torch

        decoder = self.decoder
        kept = decoder.inv_freq, decoder.positions_dtype
        only = next(iter(live.values())) if len(live) == 1 else None
        try:
            decoder.positions_dtype = torch.float32
            decoder.inv_freq = [
                torch.tensor(found.inv_freq, dtype=torch.float32, device=own.device)
                if (found := live.get(rope.group, only)) is not None and found.inv_freq.size == rope.inv_freq.size
                else own
                for rope, own in zip(decoder.ropes, decoder.inv_freq, strict=True)
            ]
            yield
        finally:
            decoder.inv_freq, decoder.positions_dtype = kept

    def log_probabilities(self, tokens: Sequence[int], positions: Sequence[int], at: Sequence[int]) -> Array:
        """By the built-in decoder."""
        import torch

        with torch.inference_mode():
            states, _ = self.decoder.states(torch.tensor([list(tokens)]), torch.tensor(list(positions)))
            found: Array = self.decoder.log_probabilities(states[0, list(at)]).double().cpu().numpy()
        return found


def torch_engine(
    checkpoint: Checkpoint,
    profile: RopeProfile,
    length: int | None,
    *,
    layers: int | None,
    device: str,
    dtype: str,
    hold: int = 0,
    like: TorchEngine | None = None,
) -> TorchEngine:
    """The built-in decoder on a checkpoint's weights, rotating as ``profile`` says for ``length`` tokens.

    Args:
        checkpoint: whose weights.
        profile: how it rotates.
        length: the context in tokens.
        layers: how many to run; None means all.
        device: a torch device.
        dtype: of weights and activations.
        hold: bytes of weights that may stay in memory.
        like: another decoder of the same checkpoint, which shares its weights.

    Raises:
        InputError: the checkpoint is not of the llama family, or its tensors do not fit.
        UsageError: torch is not installed.
    """
    with needs("torch", "torch"):
        import torch

    from ropepatch.verify import shape, weights
    from ropepatch.verify.decoder import Decoder
    from ropepatch.verify.tensors import Held

    sizes = shape.read(checkpoint)
    count = sizes.layers if layers is None else min(layers, sizes.layers)
    ropes = shape.ropes(profile, sizes, count, length)
    tensors = like.decoder.weights if like else weights.open_weights(checkpoint)
    decoder = Decoder(tensors, sizes, ropes, device=device, dtype=getattr(torch, dtype), held=Held(hold))
    if like:
        decoder.share(like.decoder)
    return TorchEngine(decoder)


class TransformersEngine:
    """A model as transformers builds it from the real config, with fewer layers."""

    name = "transformers"

    def __init__(self, checkpoint: Checkpoint, layers: int | None, device: str, dtype: str) -> None:
        with needs("torch", "torch"):
            import torch
        with needs("transformers", "transformers"):
            import transformers
        self.version = str(transformers.__version__)
        if checkpoint.profile.source.format != "hf":
            raise InputError(
                "transformers is given Hugging Face folders only",
                where=checkpoint.ref,
                hint="--engine torch or llama.cpp takes a GGUF",
            )
        root = str(Path(checkpoint.dialect.root))
        try:
            config = transformers.AutoConfig.from_pretrained(root, local_files_only=True, trust_remote_code=False)
            _shorten(config.get_text_config(), layers)
            with _silent(transformers):
                self.model = transformers.AutoModelForCausalLM.from_pretrained(
                    root, config=config, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False,
                    use_safetensors=True, attn_implementation="eager",
                ).to(device).eval()  # fmt: skip
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise InputError(f"transformers cannot load it: {' '.join(str(error).split())[:200]}", where=root) from None
        self.device = device

    def rotations(self) -> dict[str, Frequencies] | None:
        """The buffers of the rotary modules, after the last pass."""
        found: dict[str, Frequencies] = {}
        for name, module in self.model.named_modules():
            for buffer, value in module.named_buffers(recurse=False):
                if not buffer.endswith("inv_freq") or "original" in buffer or "visual" in name:
                    continue
                group = buffer.removesuffix("inv_freq").rstrip("_") or "default"
                prefix = f"{group}_" if group != "default" else ""
                scale = getattr(module, f"{prefix}attention_scaling", 1.0)
                found[group] = Frequencies(value.detach().cpu().double().numpy(), float(scale))
        return found or None

    def log_probabilities(self, tokens: Sequence[int], positions: Sequence[int], at: Sequence[int]) -> Array:
        """By the model's own forward, with explicit positions."""
        import torch

        with torch.inference_mode():
            ids = torch.tensor([list(tokens)], device=self.device)
            where = torch.tensor([list(positions)], device=self.device)
            # Without a mask, a jump in the positions is taken for the beginning of another, packed text.
            mask = torch.ones_like(ids)
            logits = self.model(input_ids=ids, position_ids=where, attention_mask=mask, use_cache=False).logits[
                0, list(at)
            ]
            found: Array = torch.log_softmax(logits.float(), -1).double().cpu().numpy()
        return found


def _shorten(config: Any, layers: int | None) -> None:
    total = getattr(config, "num_hidden_layers", None)
    if layers is None or not isinstance(total, int) or total <= layers:
        return
    config.num_hidden_layers = layers
    for name in ("layer_types", "mlp_layer_types", "no_rope_layers"):
        value = getattr(config, name, None)
        if isinstance(value, list):
            setattr(config, name, value[:layers])


@contextlib.contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Without the progress bars and the list of layers that were left out on purpose."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
