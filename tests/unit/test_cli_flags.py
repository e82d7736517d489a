"""The grammar of options."""

from __future__ import annotations

import pytest

from corten.cli import flags

FLAGS = (
    flags.switch("all", "a", ""),
    flags.switch("interactive", "i", ""),
    flags.switch("tty", "t", ""),
    flags.switch("sig-proxy", "", "", default=True),
    flags.text("name", "n", ""),
    flags.integer("last", "l", "", default=-1),
    flags.many("env", "e", ""),
)


def parse(*words: str, interspersed: bool = True) -> tuple[flags.Options, list[str]]:
    return flags.parse(FLAGS, list(words), interspersed=interspersed)


@pytest.mark.parametrize(
    ("words", "given", "arguments"),
    [
        ([], {}, []),
        (["x", "-a", "y"], {"all": True}, ["x", "y"]),
        (["-it"], {"interactive": True, "tty": True}, []),
        (["-itn", "web"], {"interactive": True, "tty": True, "name": "web"}, []),
        (["-itnweb"], {"interactive": True, "tty": True, "name": "web"}, []),
        (["-n=web"], {"name": "web"}, []),
        (["-n", "-a"], {"name": "-a"}, []),
        (["--name", "web"], {"name": "web"}, []),
        (["--name=web"], {"name": "web"}, []),
        (["--name="], {"name": ""}, []),
        (["--name", "--all"], {"name": "--all"}, []),
        (["--sig-proxy=false"], {"sig-proxy": False}, []),
        (["-a=false"], {"all": False}, []),
        (["-a=0", "-i=T"], {"all": False, "interactive": True}, []),
        (["--all", "false"], {"all": True}, ["false"]),
        (["-e", "A=1", "-eB=2", "--env=C"], {"env": ["A=1", "B=2", "C"]}, []),
        (["-l", "0x10"], {"last": 16}, []),
        (["-l", "-3"], {"last": -3}, []),
        (["-l1_000"], {"last": 1000}, []),
        (["-l010"], {"last": 8}, []),
        (["--", "-a", "--name"], {}, ["-a", "--name"]),
        (["x", "--", "-a"], {}, ["x", "-a"]),
        (["-"], {}, ["-"]),
        (["-n", "a", "-n", "b"], {"name": "b"}, []),
    ],
)
def test_words(words: list[str], given: dict, arguments: list[str]) -> None:
    options, rest = parse(*words)
    assert rest == arguments
    for flag in FLAGS:
        assert options.is_given(flag.name) == (flag.name in given)
        expected = given.get(flag.name, [] if flag.many else flag.default)
        assert (options.many(flag.name) if flag.many else options.value(flag.name)) == expected
    assert options.is_empty == (not given)


def test_options_end_at_the_first_argument() -> None:
    options, rest = parse("-a", "image", "-t", "--name", "x", interspersed=False)
    assert options.switch("all")
    assert not options.switch("tty")
    assert rest == ["image", "-t", "--name", "x"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["--nope=1"], "unknown flag: --nope"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["-ax"], "unknown shorthand flag: 'x' in -ax"),
        (["--name"], "flag needs an argument: --name"),
        (["-n"], "flag needs an argument: 'n' in -n"),
        (["-an"], "flag needs an argument: 'n' in -an"),
        (["--=x"], "bad flag syntax: --=x"),
        (["---name"], "bad flag syntax: ---name"),
        (["-l", "x"], 'invalid argument "x" for "-l, --last" flag: strconv.ParseInt: parsing "x": invalid syntax'),
        (
            ["-l", "99999999999999999999"],
            'for "-l, --last" flag: strconv.ParseInt: parsing "99999999999999999999": value out of range',
        ),
        (["-l", ""], 'invalid argument "" for "-l, --last" flag'),
        (["-l", "--5"], 'invalid argument "--5" for "-l, --last" flag'),
        (
            ["--all=maybe"],
            'invalid argument "maybe" for "-a, --all" flag: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
    ],
)
def test_errors(words: list[str], message: str) -> None:
    with pytest.raises(flags.UsageError) as caught:
        parse(*words)
    assert message in str(caught.value)


@pytest.mark.parametrize("word", ["--help", "-h", "-ah"])
def test_help(word: str) -> None:
    with pytest.raises(flags.HelpRequested):
        parse(word)


def test_h_may_be_an_option() -> None:
    hostname = (flags.text("hostname", "h", ""),)
    options, _ = flags.parse(hostname, ["-h", "box"])
    assert options.text("hostname") == "box"
    with pytest.raises(flags.HelpRequested):
        flags.parse(hostname, ["--help"])
