"""What the command line tests share: running the program, small models, a temporary folder, and the verdict.

Standard library only. A test is a function whose name begins with test_; run_tests runs those of the calling module.
"""

import array
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
    sys.exit(f"usage: {sys.argv[0]} WARPMERGE ...   (the built program)")
PROGRAM = str(Path(sys.argv[1]).resolve())
CODES = {"F32": ("f", 4), "I64": ("q", 8)}


def run(*arguments, cwd=None, env=None, stdin=None, **more):
    """Runs the program with a bare environment; text in, text out."""
    bare = {"PATH": os.environ.get("PATH", ""), "HOME": str(cwd or "/nonexistent"), "LC_ALL": "C.UTF-8"}
    for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"):
        if name in os.environ:
            bare[name] = os.environ[name]
    bare.update(env or {})
    return subprocess.run([PROGRAM, *map(str, arguments)], cwd=cwd, env=bare, stdin=stdin or subprocess.DEVNULL,
                          capture_output=more.pop("capture_output", True), text=True, timeout=120, **more)


def write_safetensors(path, tensors, metadata=None):
    """tensors: {name: (dtype, shape, values or bytes)}"""
    header, blobs, at = {}, [], 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, values) in tensors.items():
        blob = values if isinstance(values, bytes) else array.array(CODES[dtype][0], values).tobytes()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    data = Path(path).read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]])
            for name, t in header.items()}


def floats(blob):
    values = array.array("f")
    values.frombytes(blob)
    return list(values)


CONFIG = """{
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "rms_norm_eps": 1e-05,
  "rope_theta": 500000.0,
  "big": 9007199254740993,
  "torch_dtype": "float32",
  "vocab_size": 8
}
"""


def write_model(folder, values, config=CONFIG, more=None):
    """A model of two small F32 tensors, each filled with `values` cyclically."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    fill = [values[i % len(values)] for i in range(32)]
    tensors = {"model.embed_tokens.weight": ("F32", [8, 4], fill), "model.layers.0.mlp.weight": ("F32", [4, 8], fill)}
    tensors.update(more or {})
    write_safetensors(folder / "model.safetensors", tensors)
    if config is not None:
        (folder / "config.json").write_text(config)
    return folder


LINEAR = """merge_method: linear
models:
  - model: a
    parameters: {weight: 0.5}
  - model: b
    parameters: {weight: 0.5}
dtype: float32
"""


def write_pair(folder):
    """Models a and b and linear.yml, whose merge is exactly known: (1+3)/2, (2+6)/2, ..."""
    folder = Path(folder)
    write_model(folder / "a", [1.0, 2.0, -4.0, 0.5])
    write_model(folder / "b", [3.0, 6.0, 4.0, 0.25])
    (folder / "linear.yml").write_text(LINEAR)
    return folder


MERGED = [2.0, 4.0, 0.0, 0.375]


def check(condition, *what):
    if not condition:
        raise AssertionError(" ".join(str(w) for w in what) or "check failed")


def equal(actual, expected, *what):
    check(actual == expected, *what, f"\n  expected {expected!r}\n  got      {actual!r}")


def contains(text, *parts):
    for part in parts:
        check(part in text, f"missing {part!r} in:\n{text}")


def run_tests(module):
    """Exit code 1 if a test fails; each gets a fresh folder, which is removed."""
    failed = 0
    for name, test in sorted(vars(module).items()):
        if not name.startswith("test_") or not callable(test):
            continue
        folder = tempfile.mkdtemp(prefix="wm-cli-")
        try:
            test(Path(folder))
            print("ok   ", name)
        except Exception:
            failed += 1
            print("FAIL ", name)
            traceback.print_exc(file=sys.stdout)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{failed} failed")
    sys.exit(1 if failed else 0)
