"""Where things are: keys of a storage, laid out as the distribution project's registry does.

```
docker/registry/v2/blobs/<algorithm>/<hh>/<hex>/data                                content: blobs and manifests
docker/registry/v2/repositories/<name>/_layers/<algorithm>/<hex>/link               the repository has this blob
docker/registry/v2/repositories/<name>/_manifests/revisions/<algorithm>/<hex>/link  … this manifest
docker/registry/v2/repositories/<name>/_manifests/tags/<tag>/current/link           what a tag means
docker/registry/v2/repositories/<name>/_manifests/referrers/<algorithm>/<hex of the subject>/<algorithm>-<hex>
Corten's own:
                                                                                    a descriptor of what refers to it
```
A link's text is a digest.  A name is checked before a key is made of it: no component begins with an underscore or a
dot.
"""

from __future__ import annotations

import re

from corten.oci.digest import Digest, is_digest, split_digest
from corten.oci.reference import MAX_NAME_LENGTH, is_tag
from corten.registry.server.failures import Refusal

ROOT = "docker/registry/v2"
BLOBS = f"{ROOT}/blobs"
REPOSITORIES = f"{ROOT}/repositories"
# a component's separators are one of ".", "_", "__" or any number of dashes
_NAME = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_UPLOAD = re.compile(r"[0-9a-f]{32}")


def check_name(name: str) -> str:
    """Errors: Refusal(NAME_INVALID)."""
    if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise Refusal("NAME_INVALID", detail={"name": name[:100]})
    return name


def check_digest(text: str, code: str = "DIGEST_INVALID") -> Digest:
    """Errors: Refusal."""
    if not is_digest(text):
        raise Refusal(code, "invalid digest", status=400, detail={"digest": text[:100]})
    return Digest(text)


def check_tag(text: str) -> str:
    """Errors: Refusal(TAG_INVALID)."""
    if not is_tag(text):
        raise Refusal("TAG_INVALID", "invalid tag", detail={"tag": text[:100]})
    return text


def is_upload(text: str) -> bool:
    return _UPLOAD.fullmatch(text) is not None


def blob(digest: Digest) -> str:
    algorithm, encoded = split_digest(digest)
    return f"{BLOBS}/{algorithm}/{encoded[:2]}/{encoded}/data"


def repository(name: str) -> str:
    return f"{REPOSITORIES}/{name}"


def layers(name: str) -> str:
    return f"{REPOSITORIES}/{name}/_layers"


def layer(name: str, digest: Digest) -> str:
    algorithm, encoded = split_digest(digest)
    return f"{layers(name)}/{algorithm}/{encoded}/link"


def revision(name: str, digest: Digest) -> str:
    algorithm, encoded = split_digest(digest)
    return f"{REPOSITORIES}/{name}/_manifests/revisions/{algorithm}/{encoded}/link"


def tags(name: str) -> str:
    return f"{REPOSITORIES}/{name}/_manifests/tags"


def tag(name: str, tag: str) -> str:
    return f"{tags(name)}/{tag}/current/link"


def tag_index(name: str, tag: str) -> str:
    """Where the distribution project's registry has links to all that a tag ever meant, as <algorithm>/<hex>/link."""
    return f"{tags(name)}/{tag}/index"


def referrers(name: str, subject: Digest) -> str:
    algorithm, encoded = split_digest(subject)
    return f"{REPOSITORIES}/{name}/_manifests/referrers/{algorithm}/{encoded}"


def referrer(name: str, subject: Digest, digest: Digest) -> str:
    return f"{referrers(name, subject)}/{digest.replace(':', '-')}"
