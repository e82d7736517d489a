"""``-c`` of import and commit: Dockerfile instructions, words and variables."""

from __future__ import annotations

import pytest

from corten.errors import InvalidParameter
from corten.image.changes import apply_changes
from corten.image.run_config import parse_ports

PORTS = ("80/tcp", "53/udp", "8000/tcp", "8001/tcp")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (['CMD ["a", "b"]'], {"Cmd": ["a", "b"]}),
        (["CMD echo hi there"], {"Cmd": ["/bin/sh", "-c", "echo hi there"]}),
        (["CMD ['single']"], {"Cmd": ["/bin/sh", "-c", "['single']"]}),
        (["CMD []"], {"Cmd": []}),
        (['ENTRYPOINT ["e"]'], {"Entrypoint": ["e"]}),
        (['CMD ["c"]', 'ENTRYPOINT ["e"]'], {"Cmd": ["c"], "Entrypoint": ["e"]}),
        (["ENV A=1 B='two words' C=\"x y\""], {"Env": ["A=1", "B=two words", "C=x y"]}),
        (["ENV A the rest of it"], {"Env": ["A=the rest of it"]}),
        (["ENV A=1", "ENV B=${A}2 C=$A-x D=${Z:-no} E=${A:+yes}"], {"Env": ["A=1", "B=12", "C=1-x", "D=no", "E=yes"]}),
        (["ENV A=1", "ENV B=2", "ENV A=3"], {"Env": ["A=3", "B=2"]}),
        (["ENV A=a\\ b"], {"Env": ["A=a b"]}),
        (["EXPOSE 80 53/udp 8000-8001/TCP"], {"ExposedPorts": {port: {} for port in PORTS}}),
        (["LABEL a=b c=\"d e\""], {"Labels": {"a": "b", "c": "d e"}}),
        (["USER bob:staff"], {"User": "bob:staff"}),
        (['VOLUME ["/a", "/b c"]', "VOLUME /d /e"], {"Volumes": {"/a": {}, "/b c": {}, "/d": {}, "/e": {}}}),
        (["WORKDIR /a", "WORKDIR b/../c"], {"WorkingDir": "/a/c"}),
        (["STOPSIGNAL SIGTERM"], {"StopSignal": "SIGTERM"}),
        (["STOPSIGNAL 9"], {"StopSignal": "9"}),
        (["ONBUILD RUN x"], {"OnBuild": ["RUN x"]}),
        (["HEALTHCHECK NONE"], {"Healthcheck": {"Test": ["NONE"]}}),
        (
            ["HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=1h --retries=3 CMD curl -f x"],
            {
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "curl -f x"], "Interval": 90 * 10**9, "Timeout": 5 * 10**8,
                    "StartPeriod": 3600 * 10**9, "Retries": 3,
                }
            },
        ),
        (['HEALTHCHECK CMD ["a"]'], {"Healthcheck": {"Test": ["CMD", "a"]}}),
        (
            ["env a=1\ncmd x", "# comment", "", "label k=v"],
            {"Env": ["a=1"], "Cmd": ["/bin/sh", "-c", "x"], "Labels": {"k": "v"}},
        ),
    ],
)  # fmt: skip
def test_changes(changes, expected):
    assert apply_changes({}, changes) == expected


def test_changes_build_on_what_is_there_and_leave_it_alone():
    before = {"Env": ["PATH=/bin"], "Cmd": ["old"], "Labels": {"a": "1"}, "Shell": ["/bin/bash", "-c"]}
    after = apply_changes(before, ["ENTRYPOINT go", "ENV PATH=$PATH:/x", "LABEL b=2"])
    assert after == {
        "Env": ["PATH=/bin:/x"],
        "Entrypoint": ["/bin/bash", "-c", "go"],
        "Labels": {"a": "1", "b": "2"},
        "Shell": ["/bin/bash", "-c"],
    }
    assert before["Env"] == ["PATH=/bin"]
    assert before["Cmd"] == ["old"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("RUN ls", "RUN is not a valid change command"),
        ("FROM x", "FROM is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV A=1 B", "can't find = in \"B\""),
        ("ENV A='x", "single-quote"),
        ("ENV A=\"x", "double-quote"),
        ("ENV A=${B", "missing|bad substitution|unsupported"),
        ("ENV A=${B!x}", "unsupported modifier"),
        ("ENV =x", "blank"),
        ("EXPOSE 0", "Invalid containerPort: 0"),
        ("EXPOSE 70000", "Invalid containerPort"),
        ("EXPOSE http", "Invalid containerPort: http"),
        ("USER", "exactly one argument"),
        ("STOPSIGNAL NOPE", "Invalid signal: NOPE"),
        ("ONBUILD ONBUILD RUN x", "isn't allowed"),
        ("ONBUILD FROM x", "FROM isn't allowed"),
        ("HEALTHCHECK", "requires at least one argument"),
        ("HEALTHCHECK FOO", 'Unknown type "FOO"'),
        ("HEALTHCHECK CMD", "Missing command"),
        ("HEALTHCHECK NONE x", "takes no arguments"),
        ("HEALTHCHECK --interval=abc CMD x", "invalid duration"),
        ("HEALTHCHECK --interval=1us CMD x", "less than 1ms"),
        ("HEALTHCHECK --retries=-1 CMD x", "cannot be negative"),
        ("HEALTHCHECK --what=1 CMD x", "unknown flag: --what"),
        ('VOLUME [""]', "empty string"),
    ],
)  # fmt: skip
def test_bad_changes_say_why(change, message):
    with pytest.raises(InvalidParameter, match=message):
        apply_changes({}, [change])


def test_ports():
    assert parse_ports("80") == ["80/tcp"]
    assert parse_ports("1-3/udp") == ["1/udp", "2/udp", "3/udp"]
    with pytest.raises(InvalidParameter):
        parse_ports("3-1")
