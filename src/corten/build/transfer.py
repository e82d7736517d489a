"""COPY and ADD: from the context, a stage, an image, a URL or the Dockerfile itself into a layer."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from corten.build import config, fetch, git
from corten.build.cache import key_of
from corten.build.contexts import narrowed
from corten.build.layer_tar import LayerTar, Wanted, looks_like_archive
from corten.build.owners import find_owner, read_mode
from corten.build.selection import (
    MissingSource,
    Source,
    check_several,
    digest_of,
    file_digests,
    find_sources,
    has_wildcards,
    kept_inside,
)
from corten.build.tree import RootTree, Tree
from corten.dockerfile import instructions as ins
from corten.dockerfile.ignore import Ignore
from corten.dockerfile.words import expand_heredoc
from corten.errors import InvalidParameter
from corten.image import run_config
from corten.image.pipes import iterated, read_ahead

if TYPE_CHECKING:
    from corten.build.stage import Inputs, Made, StageRun
    from corten.image.intake import Intake
    from corten.image.layers import Staged
    from corten.image.metadata import Layer

_EXPLAINED_FILES = 20_000


class TransferStep:
    """One instruction of one stage."""

    def __init__(self, run: StageRun, instruction: ins.Transfer) -> None:
        self._run = run
        self._build = run.build
        self._instruction = instruction
        self._keyword = instruction.keyword
        self._patterns = [self._pattern(run.word(text)) for text in instruction.sources]
        self._asked_target = run.word(instruction.target)
        self._owner_text = run.word(instruction.owner)
        self._mode_text = run.word(instruction.mode)
        self._checksum = run.word(instruction.checksum)
        self._exclude = Ignore([run.word(text) for text in instruction.exclude])
        self._sources: list[Source] | None = None
        self._commits: list[str] = []
        if not self._asked_target:
            raise instruction.line.error(f"{self._keyword} needs a destination")
        if instruction.keep_git_dir and not any(git.is_git(pattern) for pattern in self._patterns):
            raise instruction.line.error(f"{self._keyword} --keep-git-dir needs a git source", "--keep-git-dir")

    def _pattern(self, text: str) -> str:
        is_remote = self._instruction.is_add and (git.is_git(text) or fetch.is_url(text))
        return text if is_remote or self._build.options.classic else kept_inside(text)

    @property
    def _to_directory(self) -> bool:
        last = self._asked_target.rpartition("/")[2]
        return last in ("", ".", "..")

    @property
    def _target(self) -> str:
        return run_config.joined(self._run.state.run, self._asked_target)

    def made(self) -> Made:
        """Errors: InvalidParameter, MissingSource, those of URLs and images."""
        from corten.build.stage import Made

        if self._mode_text:
            read_mode(self._mode_text)
        origin = self._run.word(self._instruction.origin)
        tree = self._build.named.tree(origin) if origin else None
        if not origin or tree is not None:
            sources = self._own_sources() if tree is None else self._named_sources(tree)
            digest = self._digest(sources)
            return Made(self._line(digest), self._key("content", digest), self._layer, self._inputs)
        image = self._origin_image(origin)
        digest = self._digest_by_image(image)
        return Made(self._line(digest), self._key("content", digest), self._layer_of(image), self._inputs)

    def _key(self, kind: str, digest: str) -> str:
        instruction = self._instruction
        return key_of(
            self._run.state.image, self._keyword, kind, digest, self._asked_target, self._owner_text, self._mode_text,
            repr((instruction.link, instruction.parents, instruction.exclude, instruction.unpack)),
        )  # fmt: skip

    def _line(self, digest: str) -> str:
        text = self._keyword + " "
        for name, value in (("chown", self._owner_text), ("chmod", self._mode_text)):
            if value:
                text += f"--{name}={value} "
        return config.no_operation(self._run.state.shell, f"{text}{digest} in {self._asked_target} ", gap=" ")

    def _inputs(self) -> Inputs:
        found: Inputs = {"instruction": self._instruction.original}
        for source in self._sources or ():
            found.update(file_digests(source, self._exclude, _EXPLAINED_FILES))
        return found

    # -- sources ------------------------------------------------------------------------------------------------------

    def _own_sources(self) -> list[Source]:
        """From the context, URLs and here-documents."""
        found: list[Source] = []
        unpack = self._instruction.unpack
        for pattern in self._patterns:
            if self._instruction.is_add and git.is_git(pattern):
                found.append(self._cloned(pattern))
                continue
            if fetch.is_url(pattern):
                if not self._instruction.is_add:
                    raise InvalidParameter(f"source can't be a URL for {self._keyword}")
                source = self._fetched(pattern)
                found.append(replace(source, unpack=bool(unpack) and looks_like_archive(source)))
                continue
            for source in self._find(self._build.context, [pattern]):
                is_archive = self._instruction.is_add and unpack is not False and looks_like_archive(source)
                found.append(replace(source, unpack=is_archive))
        found += self._heredocs()
        if self._checksum and not self._commits:
            self._check(found)
        self._check_number(found)
        self._sources = found
        return found

    def _named_sources(self, tree: Tree) -> list[Source]:
        found = self._find(tree, self._patterns) + self._heredocs()
        self._check_number(found)
        self._sources = found
        return found

    def _find(self, tree: Tree, patterns: list[str]) -> list[Source]:
        parents = self._instruction.parents
        try:
            try:
                return find_sources(narrowed(tree, patterns), patterns, parents=parents)
            except MissingSource:
                return find_sources(narrowed(tree, ()), patterns, parents=parents)  # to know what may have been meant
        except MissingSource as error:
            raise MissingSource(f"{self._keyword} failed: {error.message}") from None
        except InvalidParameter as error:
            raise InvalidParameter(f"{self._keyword} failed: {error.message}") from None

    def _heredoc_texts(self) -> list[str]:
        """Here-documents with variables replaced."""
        variables, escape = self._run.variables(), self._build.file.escape
        return [
            expand_heredoc(heredoc.text, variables, escape) if heredoc.expand else heredoc.text
            for heredoc in self._instruction.heredocs
        ]

    def _heredocs(self) -> list[Source]:
        found = []
        for heredoc, text in zip(self._instruction.heredocs, self._heredoc_texts(), strict=True):
            scratch = self._build.scratch_context()
            scratch.add_file(heredoc.name, text.encode("utf-8", "surrogateescape"))
            node = scratch.node(heredoc.name)
            assert node is not None
            node = replace(node, mtime_ns=self._build.now_ns())
            found.append(Source(scratch, heredoc.name, node, heredoc.name))
        return found

    def _fetched(self, url: str) -> Source:
        build = self._build
        try:
            name = fetch.file_name(url)
        except InvalidParameter:
            if self._to_directory:
                raise
            name = "file"  # the destination has the name
        fetched = fetch.fetch(url, build.cancellation, host_network=build.options.network == "host")
        self._run.tell({"status": "Downloading", "id": url[:200]})
        scratch = build.scratch_context()
        node = scratch.add_stream(name, fetched.chunks, mode=0o600, mtime_ns=fetched.modified_ns or 0)
        build.images.used(url, f"sha256:{scratch.digest(name, node).hex()}")
        return Source(scratch, name, node, name)

    def _cloned(self, address: str) -> Source:
        """A repository's files as a directory.  Errors: those of ``git.clone_into``."""
        build = self._build
        scratch = build.scratch_context()
        commit = git.clone_into(
            scratch,
            address,
            build.scratch,
            build.cancellation,
            host_network=build.options.network == "host",
            keep_git=self._instruction.keep_git_dir,
            secrets=build.options.secrets,
        )
        wanted = self._checksum.removeprefix("sha1:").lower()
        if wanted and (len(wanted) < 7 or not commit.startswith(wanted)):
            raise InvalidParameter(f"digest mismatch: {address} is at commit {commit}, {wanted} was expected")
        self._commits.append(commit)
        build.images.used(address, f"sha1:{commit}" if len(commit) == 40 else f"sha256:{commit}")
        node = scratch.node("")
        assert node is not None
        return Source(scratch, "", node, "context")

    def _check(self, sources: list[Source]) -> None:
        algorithm, _, wanted = self._checksum.partition(":")
        if algorithm not in ("sha256", "sha384", "sha512") or not wanted:
            raise InvalidParameter(f"invalid checksum digest format: {self._checksum}")
        if len(sources) != 1 or not sources[0].node.is_regular:
            raise InvalidParameter("checksum can't be specified for multiple sources or directories")
        running = hashlib.new(algorithm)
        for chunk in sources[0].tree.chunks(sources[0].path, sources[0].node):
            running.update(chunk)
        if running.hexdigest() != wanted.lower():
            raise InvalidParameter(f"digest mismatch {algorithm}:{running.hexdigest()}: {self._checksum} was expected")

    def _origin_image(self, origin: str) -> str:
        """The id of the stage's or image's image; "" for a stage without one."""
        build = self._build
        number = build.graph.stage_of(origin, self._run.stage.number)
        if number is not None:
            return build.result_of(number).image
        return build.images.other_image(origin, self._run.tell).id

    @contextlib.contextmanager
    def _origin_sources(self, image: str) -> Iterator[list[Source]]:
        layers = self._build.store.get(image).layers if image else ()
        if not layers:
            raise MissingSource(
                f"{self._keyword} failed: stat {self._patterns[0]}: file does not exist in an empty image"
            )
        with self._build.store.snapshotter.open_layer(layers[-1]) as descriptor:
            tree = RootTree(descriptor)
            try:
                sources = self._find(tree, self._patterns) + self._heredocs()
                self._check_number(sources)
                self._sources = sources
                yield sources
            finally:
                self._sources = None
                tree.close()

    def _check_number(self, sources: list[Source]) -> None:
        may_be_none = not self._build.options.classic and all(has_wildcards(item) for item in self._patterns)
        check_several(sources, self._keyword, to_directory=self._to_directory, may_be_none=may_be_none)

    # -- digests ------------------------------------------------------------------------------------------------------

    def _digest(self, sources: list[Source]) -> str:
        """ "file:…", "dir:…", "multi:…", as the history says it."""
        digests = []
        for source in sources:
            kind = "dir" if source.node.is_directory else "file"
            digests.append(f"{kind}:{digest_of(source, self._exclude)}")
            self._build.cancellation.check()
        if len(digests) == 1:
            return digests[0]
        return "multi:" + hashlib.sha256(",".join(digests).encode()).hexdigest()

    def _digest_by_image(self, image: str) -> str:
        """The digest of what is copied out of an image: an image never changes, so it is computed once for each."""
        memory = key_of("copied", image, repr(self._patterns), repr(self._instruction.parents),
                        repr(self._instruction.exclude), repr(self._heredoc_texts()))  # fmt: skip
        known = self._build.cache.last_inputs(memory)
        if known and "digest" in known and not self._build.options.explain:
            return known["digest"]
        with self._origin_sources(image) as sources:
            digest = self._digest(sources)
        self._build.cache.remember_inputs(memory, {"digest": digest})
        return digest

    # -- the layer ----------------------------------------------------------------------------------------------------

    def _layer(self, intake: Intake, parent: Layer | None) -> Staged:
        assert self._sources is not None
        return self._staged(intake, parent, self._sources)

    def _layer_of(self, image: str) -> Callable[[Intake, Layer | None], Staged]:
        def layer(intake: Intake, parent: Layer | None) -> Staged:
            with self._origin_sources(image) as sources:
                return self._staged(intake, parent, sources)

        return layer

    def _staged(self, intake: Intake, parent: Layer | None, sources: list[Source]) -> Staged:
        with self._run.root() as root:
            base = None if self._instruction.link else root
            wanted = Wanted(
                sources=sources,
                target=self._target,
                to_directory=self._to_directory,
                now_ns=self._build.now_ns(),
                owner=find_owner(self._owner_text, root) if self._owner_text else None,
                mode=read_mode(self._mode_text) if self._mode_text else None,
                exclude=self._exclude,
            )
            tar = LayerTar(wanted, base)
            # closed here: an error would keep it, and with it an open file of a root, until garbage is collected
            with (
                contextlib.closing(tar.chunks()) as chunks,
                read_ahead(iterated(self._watched(chunks))) as source,  # beside hashing and writing
            ):
                return intake.stage(source, parent, given=tar.given)

    def _watched(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._build.cancellation.check()
            yield chunk
