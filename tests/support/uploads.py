"""Models in files, and clients that upload them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

OCTETS = {"Content-Type": "application/octet-stream"}


def safetensors(tensors: Mapping[str, int] | None = None) -> bytes:
    """A small safetensors file of ``tensors``: names and numbers of bytes."""
    header, at = {}, 0
    for name, size in (tensors or {"weight": 4096}).items():
        header[name] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


def config(**more: Any) -> bytes:
    return json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", **more}).encode()


def model(**more: bytes) -> dict[str, bytes]:
    return {"config.json": config(), "model.safetensors": safetensors(), **more}


def gguf(architecture: str = "llama", *, tensors: int = 1, cut: int = 0) -> bytes:
    """A GGUF 3 of that architecture with ``tensors`` vectors of 32 floats; ``cut``: bytes missing at its end."""

    def text(value: str) -> bytes:
        raw = value.encode()
        return struct.pack("<Q", len(raw)) + raw

    fields = text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    listed = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    infos = b"".join(text(f"t{number}") + struct.pack("<IQIQ", 1, 32, 0, 128 * number) for number in range(tensors))
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, 2) + fields + listed + infos
    return (head + bytes(-len(head) % 32) + bytes(128 * tensors))[: -cut or None]


def announced(name: str, files: Mapping[str, bytes], **more: Any) -> dict[str, Any]:
    listed = [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()
    ]
    return {"name": name, "files": listed, **more}


def upload_directory(http: httpx.Client, name: str, directory: Path, chunk: int = 8 * 1024 * 1024) -> dict[str, Any]:
    """Upload every file of ``directory`` in parts, as a client would; the model's object."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    names = {str(path.relative_to(directory)): path for path in paths}
    files = [
        {"path": name, "size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in names.items()
    ]
    begun = http.post("/v1/repository/models", json={"name": name, "files": files})
    assert begun.status_code == 200, begun.text
    address = f"/v1/repository/uploads/{begun.json()['id']}"
    for path, file in names.items():
        data, at = file.read_bytes(), 0
        while at < len(data):
            part = data[at : at + chunk]
            query: dict[str, str | int] = {"file": path, "offset": at}
            sent = http.patch(address, params=query, content=part, headers=OCTETS)
            assert sent.status_code == 200, sent.text
            at += len(part)
    done = http.post(f"{address}/complete")
    assert done.status_code == 200, done.text
    result: dict[str, Any] = done.json()
    return result
