"""Image archives for tests: docker-archive and OCI layout in every order and shape."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import Any

from corten.oci import descriptor


def sha(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def config(*layers: bytes, **fields: Any) -> bytes:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2023-11-14T22:13:20Z",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [sha(layer) for layer in layers]},
        "history": [{"created_by": f"step {number}"} for number in range(len(layers))],
        **fields,
    }
    return json.dumps(document).encode()


def tar(members: list[tuple[str, bytes | str]]) -> bytes:
    """A plain tar; a string as content is the target of a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def docker_members(
    layers: list[bytes], *, tags: list[str] | None = None, **fields: Any
) -> list[tuple[str, bytes | str]]:
    """[config, layers…, manifest.json], to be put in any order."""
    image = fields.pop("image", None) or config(*layers, **fields)
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": f"{sha(image)[7:]}.json", "RepoTags": tags, "Layers": names}]
    return [
        (f"{sha(image)[7:]}.json", image),
        *zip(names, layers, strict=True),
        ("manifest.json", json.dumps(manifest).encode()),
    ]


def blob(content: bytes) -> tuple[str, bytes]:
    return f"blobs/sha256/{sha(content)[7:]}", content


def described(content: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha(content), "size": len(content), **fields}


def oci_manifest(image: bytes, layers: list[bytes], media_type: str = descriptor.OCI_LAYER) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": descriptor.OCI_MANIFEST,
            "config": described(image, descriptor.OCI_CONFIG),
            "layers": [described(layer, media_type) for layer in layers],
        }
    ).encode()


def oci_index(*manifests: dict[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": descriptor.OCI_INDEX, "manifests": list(manifests)}).encode()


def oci_members(
    layers: list[bytes], *, name: str = "", stored: list[bytes] | None = None
) -> list[tuple[str, bytes | str]]:
    """stored: the layers as they lie in the archive (compressed), when not plain."""
    stored = stored or layers
    image = config(*layers)
    kind = descriptor.OCI_LAYER if stored is layers else descriptor.OCI_LAYER + "+gzip"
    manifest = oci_manifest(image, stored, kind)
    notes = {"annotations": {descriptor.ANNOTATION_REF_NAME: name}} if name else {}
    return [
        ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
        ("index.json", oci_index(described(manifest, descriptor.OCI_MANIFEST, **notes))),
        blob(manifest),
        blob(image),
        *(blob(layer) for layer in stored),
    ]
