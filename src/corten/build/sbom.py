"""What packages an image holds, as an SPDX document: read from the databases of dpkg, apk and rpm inside it.

Nothing of the image runs.  Sources: SPDX 2.3; purl-spec, types ``deb``, ``apk`` and ``rpm``; dpkg's status file
(deb822); Alpine's ``installed`` database; for rpm's see ``rpm_database.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from corten.build.rpm_database import headers
from corten.build.rpm_header import RpmHeader
from corten.build.tree import Tree, resolve
from corten.oci.config import format_time

Document = dict[str, Any]
PREDICATE = "https://spdx.dev/Document"
_MAX_DATABASE = 256 << 20
_DPKG = "var/lib/dpkg/status"
_DPKG_PARTS = "var/lib/dpkg/status.d"  # distroless images: a file for each package
_APK = ("lib/apk/db/installed", "usr/lib/apk/db/installed")


@dataclass(frozen=True, slots=True)
class Package:
    """kind: of its purl, "deb", "apk" or "rpm"; source: the source package; supplier, home, epoch: "" when unknown

    is_person: the supplier is no organization
    """

    kind: str
    name: str
    version: str
    architecture: str
    source: str = ""
    supplier: str = ""
    home: str = ""
    license: str = ""
    epoch: str = ""
    is_person: bool = True


def packages(root: Tree) -> tuple[list[Package], str]:
    """(what is installed in a root, sorted; why packages of rpm are missing, "" when they are not)."""
    found = [*_dpkg(_read(root, _DPKG))]
    parts = resolve(root, _DPKG_PARTS)
    if parts is not None and parts[1].is_directory:
        for name in root.names(parts[0]):
            if not name.endswith(".md5sums"):
                found += _dpkg(_read(root, f"{_DPKG_PARTS}/{name}"), whole=True)
    for place in _APK:
        found += _apk(_read(root, place))
    flaw = ""
    try:
        for header in headers(root):
            found += _rpm(header)
    except ValueError as error:
        flaw = str(error)
    return sorted(set(found), key=lambda item: (item.kind, item.name, item.version, item.architecture)), flaw


def _rpm(header: RpmHeader) -> Iterator[Package]:
    if header.name == "gpg-pubkey":
        return  # a key that rpm trusts, kept as if it were a package
    yield Package(
        "rpm",
        header.name,
        f"{header.version}-{header.release}",
        header.arch,
        header.source if header.source != "(none)" else "",
        header.vendor or header.packager,
        header.url,
        header.license,
        header.epoch,
        is_person=not header.vendor,
    )


def _read(root: Tree, path: str) -> str:
    found = resolve(root, path)
    if found is None or not found[1].is_regular or found[1].size > _MAX_DATABASE:
        return ""
    return b"".join(root.chunks(*found)).decode("utf-8", "replace")


def _dpkg(text: str, *, whole: bool = False) -> Iterator[Package]:
    """whole: every paragraph is installed, without a status line"""
    for paragraph in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in paragraph.splitlines():
            if line[:1].isspace():
                continue  # of a field of several lines: none that is wanted
            name, colon, value = line.partition(":")
            if colon:
                fields[name.lower()] = value.strip()
        if "package" not in fields or not (whole or fields.get("status", "").endswith(" installed")):
            continue
        yield Package(
            "deb",
            fields["package"],
            fields.get("version", ""),
            fields.get("architecture", ""),
            fields.get("source", "").partition(" ")[0],
            fields.get("maintainer", ""),
            fields.get("homepage", ""),
        )


def _apk(text: str) -> Iterator[Package]:
    for paragraph in text.split("\n\n"):
        fields = dict(line.partition(":")[::2] for line in paragraph.splitlines() if line[1:2] == ":")
        if "P" in fields:
            yield Package(
                "apk",
                fields["P"],
                fields.get("V", ""),
                fields.get("A", ""),
                fields.get("o", ""),
                fields.get("m", ""),
                fields.get("U", ""),
                fields.get("L", ""),
            )


def _distribution(root: Tree) -> dict[str, str]:
    text = _read(root, "etc/os-release") or _read(root, "usr/lib/os-release")
    return {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in text.splitlines())}


def document(root: Tree | None, name: str, created_ns: int) -> Document:
    """The SPDX document of a root.  name: of the image"""
    listed, flaw = packages(root) if root is not None else ([], "")
    system = _distribution(root) if root is not None else {}
    rows = [_row(package, system) for package in listed]
    identity = hashlib.sha256(repr((name, listed)).encode()).hexdigest()
    described = "SPDXRef-DocumentRoot-Image"
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:corten:sbom:{identity}",
        "creationInfo": {"created": format_time(created_ns // 10**9 * 10**9), "creators": ["Tool: corten"]},
        "packages": [
            {
                "SPDXID": described,
                "name": name,
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "primaryPackagePurpose": "CONTAINER",
                **({"comment": f"packages of rpm are missing: {flaw}"} if flaw else {}),
            },
            *rows,
        ],
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": described,
            },
            *(
                {"spdxElementId": described, "relationshipType": "CONTAINS", "relatedSpdxElement": row["SPDXID"]}
                for row in rows
            ),
        ],
    }


def _supplier(package: Package) -> str:
    if not package.supplier:
        return "NOASSERTION"
    return f"{'Person' if package.is_person else 'Organization'}: {package.supplier}"


def _row(package: Package, system: dict[str, str]) -> Document:
    space = system.get("ID", "") or {"deb": "debian", "apk": "alpine", "rpm": "redhat"}[package.kind]
    qualifiers = [f"arch={quote(package.architecture, safe='')}"] if package.architecture else []
    if system.get("VERSION_ID"):
        qualifiers.append(f"distro={quote(space + '-' + system['VERSION_ID'], safe='')}")
    if package.epoch:
        qualifiers.append(f"epoch={quote(package.epoch, safe='')}")
    if package.source and package.source != package.name:
        qualifiers.append(f"upstream={quote(package.source, safe='')}")
    purl = f"pkg:{package.kind}/{space}/{quote(package.name, safe='')}@{quote(package.version, safe='')}"
    identity = hashlib.sha256(repr(package).encode()).hexdigest()[:16]
    row: Document = {
        "SPDXID": f"SPDXRef-Package-{package.kind}-{identity}",
        "name": package.name,
        "versionInfo": f"{package.epoch}:{package.version}" if package.epoch else package.version,
        "supplier": _supplier(package),
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": package.license or "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl + ("?" + "&".join(qualifiers) if qualifiers else ""),
            }
        ],
    }
    if package.home:
        row["homepage"] = package.home
    return row
