"""What a request asks of a build, in the words of ``build``."""

from __future__ import annotations

from corten.build.devices import read_grants
from corten.build.options import BuildOptions
from corten.build.workshop import Limits
from corten.dockerapi.build import BuildQuery
from corten.dockerapi.build_request import BuildRequest
from corten.errors import InvalidParameter
from corten.oci import reference
from corten.oci.platform import parse_platform


def target_names(tags: tuple[str, ...]) -> list[reference.Reference]:
    """The names of the result, each once.  Errors: InvalidParameter."""
    found: dict[str, reference.Reference] = {}
    for tag in tags:
        name = reference.parse(tag)
        if name.digest:
            raise InvalidParameter("build tag cannot contain a digest")
        name = name.with_default_tag()
        found[name.canonical] = name
    return list(found.values())


def build_options(query: BuildQuery, request: BuildRequest) -> BuildOptions:
    """Errors: InvalidParameter."""
    if query.platform:
        parse_platform(query.platform)
    if query.network.startswith("container:") and len(query.network) == len("container:"):
        raise InvalidParameter("invalid network mode: a container is missing in container:<name|id>")
    read_grants(request.allow)
    return BuildOptions(
        dockerfile=query.dockerfile,
        tags=query.tags,
        target=query.target,
        arguments=query.arguments,
        labels=query.labels,
        no_cache=query.no_cache,
        pull=query.pull,
        cache_from=query.cache_from,
        quiet=query.quiet,
        remove=query.remove,
        force_remove=query.force_remove,
        network=query.network,
        platform=query.platform,
        limits=Limits(
            memory=query.memory,
            memory_swap=query.memory_swap,
            cpu_shares=query.cpu_shares,
            cpu_period=query.cpu_period,
            cpu_quota=query.cpu_quota,
            cpuset_cpus=query.cpuset_cpus,
            cpuset_mems=query.cpuset_mems,
            shm_size=query.shm_size,
            ulimits=tuple((item.name, item.soft, item.hard) for item in query.ulimits),
            cgroup_parent=query.cgroup_parent,
            extra_hosts=query.extra_hosts,
        ),
        secrets=request.secrets,
        agents=request.agents,
        explain=query.explain,
        structured=request.structured,
        classic=not request.structured,
        allow=frozenset(request.allow),
        fresh_stages=frozenset(request.no_cache_filter),
        squash=request.squash or query.squash,
        rewrite_times=request.rewrite_times,
    )
