"""Random checkpoints in the exact published layouts, of any size, saved as their authors save.

Names and shapes are written out here by hand from the published sources, not taken from the
loaders that the tests check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

State = dict[str, np.ndarray]


class _Maker:
    """Draws tensors of the usual size: uniform within 1 / sqrt(fan-in), as PyTorch starts."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.state: State = {}

    def add(self, name: str, *shape: int) -> None:
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 16
        bound = 1.0 / np.sqrt(fan)
        self.state[name] = self.rng.uniform(-bound, bound, shape).astype(np.float32)

    def linear(self, name: str, out: int, inputs: int) -> None:
        self.add(f"{name}.weight", out, inputs)
        self.add(f"{name}.bias", out)

    def both_ways(self, name: str, hidden: int, inputs: int, layers: int) -> None:
        """A torch.nn.GRU with bidirectional=True."""
        for layer in range(layers):
            for end in ("", "_reverse"):
                size = 2 * hidden if layer else inputs
                self.add(f"{name}.weight_ih_l{layer}{end}", 3 * hidden, size)
                self.add(f"{name}.weight_hh_l{layer}{end}", 3 * hidden, hidden)
                self.add(f"{name}.bias_ih_l{layer}{end}", 3 * hidden)
                self.add(f"{name}.bias_hh_l{layer}{end}", 3 * hidden)

    def gru(self, name: str, hidden: int, inputs: int) -> None:
        self.add(f"{name}.weight_ih_l0", 3 * hidden, inputs)
        self.add(f"{name}.weight_hh_l0", 3 * hidden, hidden)
        self.add(f"{name}.bias_ih_l0", 3 * hidden)
        self.add(f"{name}.bias_hh_l0", 3 * hidden)

    def batch_norm(self, name: str, channels: int) -> None:
        low_high = {"weight": (0.5, 1.5), "bias": (-0.3, 0.3), "running_mean": (-0.5, 0.5)}
        low_high["running_var"] = (0.2, 2.0)
        for part, (low, high) in low_high.items():
            values = self.rng.uniform(low, high, channels).astype(np.float32)
            self.state[f"{name}.{part}"] = values
        self.state[f"{name}.num_batches_tracked"] = np.asarray(1234, dtype=np.int64)

    def fir(self, name: str, taps: int) -> None:
        noise = self.rng.normal(0.0, 0.3 / taps, (1, 1, 1, taps))
        self.state[name] = (1.0 / taps + noise).astype(np.float32)


def fatchord(
    *,
    hidden: int = 16,
    fc: int = 16,
    classes: int = 512,
    n_mels: int = 8,
    aux: int = 4,
    channels: int = 12,
    blocks: int = 2,
    pad: int = 2,
    scales: Sequence[int] = (2, 2, 3),
    seed: int = 0,
) -> State:
    """State dict of fatchord's `models/fatchord_version.py` (and of RTVC's vocoder)."""
    m = _Maker(seed)
    m.add("upsample.resnet.conv_in.weight", channels, n_mels, 2 * pad + 1)
    m.batch_norm("upsample.resnet.batch_norm", channels)
    for i in range(blocks):
        layer = f"upsample.resnet.layers.{i}"
        m.add(f"{layer}.conv1.weight", channels, channels, 1)
        m.add(f"{layer}.conv2.weight", channels, channels, 1)
        m.batch_norm(f"{layer}.batch_norm1", channels)
        m.batch_norm(f"{layer}.batch_norm2", channels)
    m.add("upsample.resnet.conv_out.weight", 4 * aux, channels, 1)
    m.add("upsample.resnet.conv_out.bias", 4 * aux)
    for k, scale in enumerate(scales):
        m.fir(f"upsample.up_layers.{2 * k + 1}.weight", 2 * scale + 1)
    m.linear("I", hidden, n_mels + aux + 1)
    m.gru("rnn1", hidden, hidden)
    m.gru("rnn2", hidden, hidden + aux)
    m.linear("fc1", fc, hidden + aux)
    m.linear("fc2", fc, fc + aux)
    m.linear("fc3", classes, fc)
    m.state["step"] = np.asarray([797000], dtype=np.int64)
    return m.state


def without_aux(state: Mapping[str, np.ndarray], *, aux: int) -> State:
    """Drop the auxiliary network and every column that reads it (coqui's use_aux_net false)."""
    kept = {name: a for name, a in state.items() if not name.startswith("upsample.resnet.")}
    for name in ("I.weight", "rnn2.weight_ih_l0", "fc1.weight", "fc2.weight"):
        kept[name] = np.ascontiguousarray(kept[name][:, : kept[name].shape[1] - aux])
    return kept


def coqui(*, hop_length: int = 0, use_aux_net: bool = True, **sizes: Any) -> State:
    """State dict of coqui's WaveRNN with ``use_upsample_net`` false: no filters, maybe no aux.

    The class `Upsample` keeps its resnet whatever `use_aux_net` says, and knows no `step`.
    `hop_length` is in no tensor; it is taken so that a twin can be made of the same sizes.
    """
    state = fatchord(**sizes)
    kept = {n: a for n, a in state.items() if "up_layers" not in n and n != "step"}
    if use_aux_net:
        return kept
    resnet = {name: array for name, array in kept.items() if name.startswith("upsample.resnet.")}
    return {**without_aux(kept, aux=sizes.get("aux", 4)), **resnet}


def begeekmyfriend(*, seed: int = 0, **sizes: Any) -> State:
    """State dict of begeekmyfriend/WaveRNN: a bias beside every convolution, no `step`."""
    m = _Maker(seed + 1)
    for name, array in fatchord(seed=seed, **sizes).items():
        if name == "step":
            continue
        m.state[name] = array
        convolution = name.removesuffix(".weight")
        if convolution.endswith(("conv_in", "conv1", "conv2")) or "up_layers" in name:
            m.add(f"{convolution}.bias", 1 if "up_layers" in name else len(array))
    return m.state


def scwavernn(*, hidden: int = 16, n_mels: int = 8, aux: int = 4, **sizes: Any) -> State:
    """State dict of SC-WaveRNN: 256 columns of a speaker's vector after x, mel and a1."""
    state = fatchord(hidden=hidden, n_mels=n_mels, aux=aux, **sizes)
    m = _Maker(sizes.get("seed", 0) + 2)
    m.linear("I", hidden, 1 + n_mels + aux + 256)
    return {**state, **m.state}


def multiband(*, hidden: int = 16, n_mels: int = 8, aux: int = 4, **sizes: Any) -> State:
    """State dict of Multiband-WaveRNN: four last samples before mel and a1, a head for each band.

    The heads stand in the order in which its constructor makes them.
    """
    state = fatchord(hidden=hidden, n_mels=n_mels, aux=aux, **sizes)
    m = _Maker(sizes.get("seed", 0) + 3)
    m.linear("I", hidden, 4 + n_mels + aux)
    classes, fc = state["fc3.weight"].shape
    for head in ("fc31", "fc32", "fc33", "fc30"):
        m.linear(head, classes, fc)
    kept = {n: a for n, a in state.items() if not n.startswith("fc3.") and n != "step"}
    return {**kept, **m.state, "step": state["step"]}


def torchaudio(*, blocks: int = 2, seed: int = 0, classes: int = 256, **sizes: Any) -> State:
    """State dict of torchaudio.models.WaveRNN: other names, the same tensors, no step."""
    inner = {"conv1": 0, "batch_norm1": 1, "conv2": 3, "batch_norm2": 4}
    state = {}
    for name, array in fatchord(blocks=blocks, seed=seed, classes=classes, **sizes).items():
        words = name.split(".")
        if name == "step":
            continue
        if words[0] == "I":
            words[0] = "fc"
        elif words[:2] == ["upsample", "up_layers"]:
            words[1] = "upsample_layers"
        elif words[:2] == ["upsample", "resnet"]:
            tail = words[2:]
            if tail[0] == "layers":
                place = [str(3 + int(tail[1])), "resblock_model", str(inner[tail[2]]), *tail[3:]]
            else:
                first = {"conv_in": 0, "batch_norm": 1, "conv_out": 3 + blocks}[tail[0]]
                place = [str(first), *tail[1:]]
            words = ["upsample", "resnet", "melresnet_model", *place]
        state[".".join(words)] = array
    return state


def geneing(
    *,
    hidden: int = 16,
    fc: int = 16,
    classes: int = 512,
    n_mels: int = 8,
    aux: int = 8,
    channels: int = 12,
    blocks: int = 2,
    pad: int = 2,
    scales: Sequence[int] = (2, 2, 3),
    drops: bool = True,
    seed: int = 0,
) -> State:
    """State dict of geneing's single-GRU model; `drops`: I does not hear the last of slice 1."""
    state = fatchord(
        hidden=hidden,
        fc=fc,
        classes=classes,
        n_mels=n_mels,
        aux=aux,
        channels=channels,
        blocks=blocks,
        pad=pad,
        scales=scales,
        seed=seed,
    )
    gone = {n for n in state if n.startswith(("rnn2.", "fc2.")) or n == "step"}
    state = {n: t for n, t in state.items() if n not in gone}
    m = _Maker(seed + 1000)
    m.add("upsample.resnet.conv_out.weight", 2 * aux, channels, 1)
    m.add("upsample.resnet.conv_out.bias", 2 * aux)
    m.linear("I", hidden, 1 + n_mels + aux - drops)
    return {**state, **m.state}


def deepmind(*, hidden: int = 32, seed: int = 0) -> State:
    """State dict of fatchord's `models/deepmind_version.py`: gates u, r, e; unconditioned."""
    m, half = _Maker(seed), hidden // 2
    m.add("R.weight", 3 * hidden, hidden)
    m.add("I_coarse.weight", 3 * half, 2)
    m.add("I_fine.weight", 3 * half, 3)
    for gate in "ure":
        m.add(f"bias_{gate}", hidden)
    for first, second in (("O1", "O2"), ("O3", "O4")):
        m.linear(first, half, half)
        m.linear(second, 256, half)
    return m.state


def mkotha(
    *,
    hidden: int = 32,
    fc: int = 16,
    n_mels: int = 8,
    scales: Sequence[int] = (2, 2, 3),
    seed: int = 0,
) -> State:
    """State dict of mkotha's `models/wavernn1.py` with filters alone, mask applied as trained."""
    m, half = _Maker(seed), hidden // 2
    for k, scale in enumerate(scales):
        m.fir(f"upsample.up_layers.{k}.weight", 2 * scale - 1)
        m.add(f"upsample.up_layers.{k}.bias", 1)
    m.gru("wavernn.gru", hidden, n_mels + 3)
    # Training multiplies by a mask after every update: coarse units have no weight for c_t.
    m.state["wavernn.gru.weight_ih_l0"].reshape(3, 2, half, n_mels + 3)[:, 0, :, -1] = 0.0
    m.linear("wavernn.fc1", fc, half)
    m.linear("wavernn.fc2", 256, fc)
    m.linear("wavernn.fc3", fc, half)
    m.linear("wavernn.fc4", 256, fc)
    return m.state


def yanggeng(
    *,
    hidden: int = 32,
    fc: int = 16,
    n_mels: int = 8,
    lstm: int = 0,
    masked: bool = True,
    seed: int = 0,
) -> State:
    """State dict of yanggeng1995's `models/model.py`, mask applied as trained; `lstm`: layers."""
    m, half = _Maker(seed), hidden // 2
    for i in (0, 2):
        m.add(f"frame_net.convs.{i}.weight", n_mels, n_mels, 3)
        m.add(f"frame_net.convs.{i}.bias", n_mels)
    m.linear("frame_net.fc.0", n_mels, n_mels)
    m.linear("frame_net.fc.2", n_mels, n_mels)
    for layer in range(lstm):
        for part in ("weight_ih", "weight_hh"):
            m.add(f"upsample.lstm_layer.{part}_l{layer}", 4 * n_mels, n_mels)
        for part in ("bias_ih", "bias_hh"):
            m.add(f"upsample.lstm_layer.{part}_l{layer}", 4 * n_mels)
    mask = np.ones((3, 2, half, n_mels + 3), np.float32)
    mask[:, 0, :, -1] = 0.0  # coarse units have no weight for c_t
    m.state["wavernn.mask"] = mask.reshape(3 * hidden, n_mels + 3)
    m.gru("wavernn.gru", hidden, n_mels + 3)
    if masked:
        m.state["wavernn.gru.weight_ih_l0"] *= m.state["wavernn.mask"]
    for half_name in ("coarse", "fine"):
        m.linear(f"wavernn.fc_{half_name}.0", fc, half)
        m.linear(f"wavernn.fc_{half_name}.2", 256, fc)
    return m.state


def univoc(
    *,
    hidden: int = 32,
    fc: int = 16,
    classes: int = 1024,
    n_mels: int = 8,
    embedding: int = 6,
    conditioning: int = 5,
    seed: int = 0,
) -> State:
    """State dict of univoc 0.2, `univoc/model.py` of bshall/UniversalVocoding."""
    m = _Maker(seed)
    m.both_ways("rnn1", conditioning, n_mels, 2)
    m.add("embedding.weight", classes, embedding)
    m.gru("rnn2", hidden, embedding + 2 * conditioning)
    m.linear("fc1", fc, hidden)
    m.linear("fc2", classes, fc)
    return m.state


def zerospeech(
    *,
    hidden: int = 32,
    fc: int = 16,
    classes: int = 256,
    n_mels: int = 8,
    speaker: int = 3,
    speakers: int = 4,
    codes: int = 0,
    embedding: int = 6,
    conditioning: int = 5,
    seed: int = 0,
) -> State:
    """State dict of ZeroSpeech's decoder; with `codes` VectorQuantizedCPC's vocoder.

    `n_mels` is what its network hears: the vector of a code, then `speaker` numbers.
    """
    m = _Maker(seed)
    if codes:
        m.add("code_embedding.weight", codes, n_mels - speaker)
    m.add("speaker_embedding.weight", speakers, speaker)
    m.both_ways("rnn1", conditioning, n_mels, 2)
    m.add("mu_embedding.weight", classes, embedding)
    m.gru("rnn2", hidden, embedding + 2 * conditioning)
    m.linear("fc1", fc, hidden)
    m.linear("fc2", classes, fc)
    return m.state


def univoc_first(
    *,
    hidden: int = 32,
    fc: int = 16,
    classes: int = 512,
    n_mels: int = 8,
    embedding: int = 6,
    conditioning: int = 5,
    seed: int = 0,
) -> State:
    """State dict of univoc 0.1, `model.py` of bshall/UniversalVocoding."""
    m = _Maker(seed)
    m.both_ways("rnn1", conditioning, n_mels, 1)
    m.both_ways("rnn2", conditioning, 2 * conditioning, 1)
    m.add("embedding.weight", classes, embedding)
    m.gru("rnn3", hidden, embedding + 2 * conditioning)
    m.linear("fc1", fc, hidden)
    m.linear("fc2", classes, fc)
    return m.state


def anandaswarup(**sizes: Any) -> State:
    """State dict of anandaswarup/waveRNN, `model.py`."""
    names = {
        "rnn1": "conditioning_network",
        "embedding": "quantized_audio_embedding",
        "rnn2": "rnn",
        "fc1": "linear_layer",
        "fc2": "output_layer",
    }
    state = {}
    for name, array in univoc(**sizes).items():
        first, _, rest = name.partition(".")
        state[f"{names[first]}.{rest}"] = array
    return state


def gibiansky(
    *,
    hidden: int = 32,
    fc: int = 16,
    classes: int = 256,
    n_mels: int = 8,
    channels: int = 6,
    layers: int = 3,
    width: int = 5,
    seed: int = 0,
) -> State:
    """State dict of gibiansky/wavernn, `src/wavernn/model.py`, with one band."""
    m = _Maker(seed)
    m.state["conditioner.input_range"] = np.array([-6.9, 3.1], np.float32)
    for i in range(layers):
        m.add(f"conditioner.model.{2 * i}.weight", channels, channels if i else n_mels, width)
        m.add(f"conditioner.model.{2 * i}.bias", channels)
    m.gru("autoregressive.gru", hidden, channels)
    m.linear("autoregressive.post_gru", fc, hidden)
    m.add("domain.embedding.weight", classes, channels)
    m.linear("domain.linear", classes, fc)
    return m.state


def yukarin(
    *,
    hidden: int = 32,
    fc: int = 16,
    classes: int = 1024,
    n_mels: int = 8,
    embedding: int = 6,
    conditioning: int = 5,
    layers: int = 2,
    masked: bool = True,
    encoder: str = "gru",
    speakers: int = 0,
    speaker: int = 3,
    seed: int = 0,
) -> State:
    """State dict of yukarin_wavernn's `network/wave_rnn.py`; no features if `n_mels` is 0.

    `encoder` is its local_network_type; `speakers` with vectors of `speaker` numbers.
    """
    m, ways = _Maker(seed), 2 if encoder == "gru" else 1
    if speakers:
        m.add("speaker_embedder.weight", speakers, speaker)
    heard = n_mels + speaker * (speakers > 0)
    if encoder == "gru" and heard:
        m.both_ways("local_gru", conditioning, heard, layers)
    elif heard:
        _local_encoder(m, encoder, (heard, conditioning), layers)
    m.add("x_embedder.weight", classes + masked, embedding)
    m.gru("gru", hidden, embedding + ways * conditioning * (heard > 0))
    m.linear("O1", fc, hidden)
    m.linear("O2", classes, fc)
    return m.state


def _local_encoder(m: _Maker, encoder: str, sizes: tuple[int, int], layers: int) -> None:
    """yukarin_wavernn's `network/local_encoder.py`: three kinds of dilated convolutions."""
    heard, wide = sizes
    narrow, name = wide // 4, "local_encoder"
    m.add(f"{name}.pre.weight", wide, heard, 1)
    m.add(f"{name}.pre.bias", wide)
    if encoder == "skip_dilated_cnn":
        convs = {"conv": (wide, wide, 3)}
    else:
        convs = {"conv1": (narrow, wide, 1), "conv2": (narrow, narrow, 3)}
        convs["conv3"] = (wide, narrow, 1)
    for i in range(layers):
        for conv, shape in convs.items():
            one = f"{name}.{conv}_list.{i}"
            m.add(f"{one}.bias", shape[0])
            if encoder.endswith("_bn"):
                m.add(f"{one}.weight", *shape)
                continue
            m.state[f"{one}.weight_g"] = m.rng.uniform(0.5, 1.5, (shape[0], 1, 1)).astype(
                np.float32
            )
            m.add(f"{one}.weight_v", *shape)
        if encoder.endswith("_bn"):
            m.batch_norm(f"{name}.bn1_list.{i}", wide)
            m.batch_norm(f"{name}.bn2_list.{i}", narrow)
            m.batch_norm(f"{name}.bn3_list.{i}", narrow)


BUILDERS = {
    "fatchord": fatchord,
    "coqui": coqui,
    "begeekmyfriend": begeekmyfriend,
    "scwavernn": scwavernn,
    "multiband": multiband,
    "torchaudio": torchaudio,
    "deepmind": deepmind,
    "mkotha": mkotha,
    "yanggeng": yanggeng,
    "univoc": univoc,
    "anandaswarup": anandaswarup,
    "gibiansky": gibiansky,
    "yukarin": yukarin,
    "zerospeech": zerospeech,
}

# What published training programs put around the state dict.
WRAPPERS: dict[str, dict[str, Any]] = {
    "": {},
    "model_state": {"step": 1159000, "optimizer_state": {"state": {}, "param_groups": []}},
    "state_dict": {"global_step": 7, "global_epoch": 1},
    "decoder": {"encoder": {}, "optimizer": {"state": {}}, "step": 500000},
    "vocoder": {"optimizer": {"state": {}}, "scheduler": {}, "step": 160000},
    "model": {"optimizer": {"state": {}}, "epoch": 3, "date": "2020-01-01"},
}


def to_torch(state: Mapping[str, np.ndarray], dtype: str | None = None) -> dict[str, Any]:
    """Turn arrays into tensors; `dtype` ("float16", "bfloat16") narrows the floats."""
    import torch

    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    if dtype is None:
        return tensors
    narrow = getattr(torch, dtype)
    return {n: t.to(narrow) if t.is_floating_point() else t for n, t in tensors.items()}


def save(
    path: Path,
    state: Mapping[str, np.ndarray],
    *,
    wrapper: str = "",
    prefix: str = "",
    dtype: str | None = None,
    legacy: bool = False,
) -> Path:
    """Write a checkpoint: `wrapper` as in `WRAPPERS`, `prefix` "module.", old pickle stream."""
    import torch

    named = {prefix + name: tensor for name, tensor in to_torch(state, dtype).items()}
    content = {wrapper: named, **WRAPPERS[wrapper]} if wrapper else named
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path
