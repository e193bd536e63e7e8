"""Pickle streams that run code, allocate without bound, or are no pickle.

Written opcode by opcode, as no honest program writes them. What a payload would do is to make a
file of the name MARK in the folder that the reader works in.
"""

from __future__ import annotations

import pickle
import struct

from .kinds import Attack

PROTO = b"\x80\x02"
STOP = b"."
CODE = "asks to run code|nothing was run"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """Opcodes that leave module.name(*arguments) on the stack."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def state_with(value: bytes) -> bytes:
    """A state dict of one entry."""
    return PROTO + b"}" + text("I.weight") + value + b"s" + STOP


# Functions of the standard library and of torch that run what they are given, or get at those.
_RUNNERS = {
    "os_system": call("os", "system", text("touch MARK")),
    "posix_system": call("posix", "system", text("touch MARK")),
    "subprocess": call("subprocess", "getoutput", text("touch MARK")),
    "exec": call("builtins", "exec", text("open('MARK', 'w')")),
    "eval": call("builtins", "eval", text("open('MARK', 'w')")),
    "open": call("builtins", "open", text("MARK"), text("w")),
    "old_builtins": call("__builtin__", "eval", text("open('MARK', 'w')")),
    "getattr": call("builtins", "getattr", b"cos\nsystem\n", text("__call__")),
    "import": call("importlib", "import_module", text("antigravity")),
    "runpy": call("runpy", "_run_code", text("open('MARK', 'w')"), b"}"),
    "pty": call("pty", "spawn", text("touch MARK")),
    "rmtree": call("shutil", "rmtree", text("MARK")),
    "partial": call("functools", "partial", b"cos\nsystem\n", text("touch MARK")),
    "pickle_loads": call("pickle", "loads", text("MARK")),
    "torch_load": call("torch", "load", text("MARK")),
    "torch_hub": call("torch.hub", "load", text("MARK"), text("MARK")),
    "torch_dynamo": call("torch._dynamo.guards", "GuardBuilder.get", text("MARK")),
    "numpy_load": call("numpy", "load", text("MARK")),
    "numpy_runstring": call("numpy.testing._private.utils", "runstring", text("MARK"), b"}"),
    "our_own": call("wavernn_fast.files", "write_atomic", text("MARK"), b"]"),
    "config_object": call("TTS.vocoder.configs.wavernn_config", "WavernnConfig"),
}


def _code() -> list[Attack]:
    attacks = [Attack(f"code_{name}", state_with(op), CODE) for name, op in _RUNNERS.items()]
    # The same with the name on the stack, by an old instruction, and set as state of an object.
    on_stack = b"\x80\x04" + text("os") + text("system") + b"\x93(" + text("touch MARK") + b"tR."
    instance = PROTO + b"(" + text("touch MARK") + b"ios\nsystem\n."
    build = PROTO + b"ccollections\nOrderedDict\n)R}" + text("x") + b"cos\nsystem\nsb."
    extension = PROTO + b"\x82\x01" + STOP
    # Attributes of what is allowed are not.
    dotted = state_with(b"\x8c\x05torch\x8c\x0bhub.os.path\x93")
    persistent = state_with(text("MARK") + b"Q")
    return [
        *attacks,
        Attack("code_on_stack", on_stack, CODE),
        Attack("code_instance", instance, CODE),
        Attack("code_build", build, CODE),
        Attack("code_extension", extension, CODE),
        Attack("code_dotted", dotted, CODE),
        Attack("code_persistent", persistent, "truncated or damaged|nothing was run"),
    ]


def _sizes() -> list[Attack]:
    """Lengths that the stream does not have, and structures that grow on the reader's side."""
    huge = struct.pack("<q", 1 << 40)
    claims = {
        "bytes8": b"\x8e" + huge,
        "text8": b"\x8d" + huge,
        "text4": b"X\xff\xff\xff\xff",
        "bytearray8": b"\x96" + huge,
        "long4": b"\x8b\xff\xff\xff\x7f",
        "frame": b"\x95" + huge,
        "memo": b"r\xff\xff\xff\x7f",
        "get": b"j\xff\xff\xff\x7f",
        "nothing_on_the_stack": b"tR",
        "no_mark": b"u",
    }
    attacks = [Attack(f"size_{name}", PROTO + op + STOP, "damaged") for name, op in claims.items()]
    long = b"J" + struct.pack("<i", 0x7FFFFFFF)
    zeros = state_with(call("builtins", "bytearray", b"\x8a\x05" + b"\x00\x00\x00\x00\x10"))
    deep = PROTO + b"(" * 50_000 + b"t" * 50_000 + STOP
    laughs = (
        PROTO
        + b"]q\x00"
        + b"".join(
            b"]q" + bytes([n + 1]) + b"(" + (b"h" + bytes([n])) * 9 + b"e" for n in range(40)
        )
    )
    return [
        *attacks,
        Attack("size_bytearray", zeros, "damaged|is bytearray|nothing was run|no tensors"),
        Attack(
            "size_tensor_of_nothing",
            state_with(call("torch", "Size", b"]" + long + b"a")),
            "damaged|nothing was run",
        ),
        Attack("deep_tuples", deep, "damaged|holds a tuple"),
        Attack("laughing_lists", laughs + STOP, "holds a list|damaged"),
    ]


def _other_programs() -> list[Attack]:
    """Honest pickles that are no checkpoint."""
    return [
        Attack(f"pickle_protocol_{protocol}", pickle.dumps(value, protocol), words)
        for protocol in (2, 3, 4, 5)
        for value, words in (({"a": [1, 2.5, None, True]}, "damaged|no tensors"),)
    ]


def attacks() -> list[Attack]:
    return _code() + _sizes() + _other_programs()
