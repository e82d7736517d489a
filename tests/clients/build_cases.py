"""Dockerfiles for two builders: what both must make the same of them.

All have the same context.  ``{base}`` is the busybox image.
"""

from __future__ import annotations

import io
import tarfile

MTIME = 1_600_000_000


def _tar(members: list[tuple[str, object, int, int]], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, value, permissions, owner in members:
            entry = tarfile.TarInfo(name)
            entry.mode, entry.mtime = permissions, MTIME
            entry.uid = entry.gid = owner
            data = b""
            if value is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(value, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, value
            elif isinstance(value, tuple):
                entry.type, entry.linkname = tarfile.LNKTYPE, value[0]
            else:
                data = bytes(value)  # type: ignore[call-overload]
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


INNER = [
    ("in", None, 0o750, 7),
    ("in/file", b"unpacked\n", 0o640, 7),
    ("in/link", "file", 0o777, 0),
    ("in/hard", ("in/file",), 0o640, 7),
    ("in/set", b"#!", 0o4755, 0),
    ("top", b"t", 0o600, 5),
]
CONTEXT: list[tuple[str, object, int, int]] = [
    ("a", b"A\n", 0o644, 0),
    ("b", b"BB\n", 0o755, 0),
    ("empty", b"", 0o600, 0),
    ("with space", b"s", 0o644, 0),
    ("dir", None, 0o700, 0),
    ("dir/f1", b"1", 0o644, 0),
    ("dir/f2.txt", b"2", 0o640, 0),
    ("dir/sub", None, 0o750, 0),
    ("dir/sub/g", b"g", 0o600, 0),
    ("dir/sub/h.txt", b"h", 0o755, 0),
    ("dir/link", "f1", 0o777, 0),
    ("dir/dangling", "/nowhere", 0o777, 0),
    ("hollow", None, 0o711, 0),
    ("sticky", None, 0o1777, 0),
    ("sticky/file", b"x", 0o755, 0),
    ("flink", "a", 0o777, 0),
    ("dlink", "dir", 0o777, 0),
    ("script.sh", b"#!/bin/sh\necho script > /made\n", 0o755, 0),
    ("inner.tar", _tar(INNER), 0o644, 0),
    ("inner.tgz", _tar(INNER, "w:gz"), 0o644, 0),
    ("inner.tbz", _tar(INNER, "w:bz2"), 0o644, 0),
    ("inner.txz", _tar(INNER, "w:xz"), 0o644, 0),
    ("not.tar", b"no archive at all" * 100, 0o644, 0),
    ("ignored", b"i", 0o644, 0),
]


def context(dockerfile: str, *, drop: tuple[str, ...] = ("ignored",)) -> bytes:
    """As docker's client sends it: what is ignored is left out."""
    kept = [member for member in CONTEXT if member[0] not in drop]
    return _tar([*kept, ("Dockerfile", dockerfile.encode(), 0o644, 0)])


# name -> Dockerfile below "FROM busybox"
STEPS: dict[str, str] = {
    "nothing": "",
    "env": "ENV a=b\nENV c d e\nENV f=\"g h\" i=j\\ k l='m n'\nENV a=again x=$a y=${a}z",
    "env modifiers": "ENV a=1 e=\nENV x=${a:-d} y=${n:-d} z=${e:-d} v=${a:+s} w=${n:+s} u=${e:+s}",
    "env quotes": 'ENV a="\\"q\\"" b=\'$a\' c="$a" d=\\$a e="it\'s" f=x"y"\'z\'',
    "env same line": "ENV a=old\nENV a=new b=$a",
    "env path": "ENV PATH=/opt/bin:$PATH\nRUN echo $PATH > /path",
    "env empty": "ENV a=\nENV b=''",
    "env continued": "ENV a=1 \\\n    # comment\n    b=2 \\\n\n    c=3",
    "label": 'LABEL a=b "c d"="e f" g.h=i\nLABEL old style\nLABEL m="x \\\ny"',
    "label replaced": "LABEL a=1 b=2\nLABEL a=3",
    "expose": "EXPOSE 80\nEXPOSE 53/udp 90-92/tcp 80\nENV P=7000\nEXPOSE $P ${P}/udp",
    "volume": 'VOLUME /v\nVOLUME /w /x\nVOLUME ["/y", "/z z"]\nENV V=/vv\nVOLUME $V',
    "volume write lost": "VOLUME /v\nRUN echo x > /v/lost\nCOPY a /v/kept",
    "volume existing": "RUN mkdir /v && echo x > /v/f\nVOLUME /v\nRUN echo y > /v/f",
    "user": "USER bob\nRUN id > /tmp/id\nUSER 5:6\nRUN id > /tmp/id2\nUSER root",
    "user variable": "ENV u=bob\nUSER $u",
    "workdir": "WORKDIR /w\nRUN pwd > p\nWORKDIR x/y\nRUN pwd > p\nWORKDIR ../z\nRUN pwd > p",
    "workdir existing": "WORKDIR /bin\nWORKDIR /etc",
    "workdir variable": "ENV D=/d E=e\nWORKDIR $D/${E}\nRUN pwd > p",
    "workdir user": "USER bob\nWORKDIR /home/bob/x",
    "workdir spaces": "WORKDIR /a b\nRUN pwd > p",
    "workdir link": "RUN ln -s /var /lv\nWORKDIR /lv/x",
    "cmd shell": "CMD echo $HOME && true",
    "cmd exec": 'CMD ["a", "b c", "d\\"e"]',
    "cmd not json": "CMD ['a', 'b']",
    "cmd empty list": "CMD []",
    "cmd twice": "CMD a\nCMD b",
    "entrypoint": 'ENTRYPOINT ["x", "y"]',
    "entrypoint shell": "ENTRYPOINT exec top",
    "entrypoint clears cmd": 'ENTRYPOINT ["x"]',
    "cmd then entrypoint": 'CMD ["a"]\nENTRYPOINT ["x"]',
    "entrypoint then cmd": 'ENTRYPOINT ["x"]\nCMD ["a"]',
    "entrypoint empty": 'ENTRYPOINT ["x"]\nENTRYPOINT []',
    "shell": 'SHELL ["/bin/sh", "-e", "-c"]\nRUN echo x > /f\nCMD y\nENTRYPOINT z\nENV a=b\nCOPY a /c',
    "stopsignal": "STOPSIGNAL SIGUSR1\nENV S=9\nSTOPSIGNAL $S",
    "stopsignal realtime": "STOPSIGNAL SIGRTMIN+3",
    "healthcheck": "HEALTHCHECK --interval=1m30s --timeout=10s --start-period=2s --retries=5 CMD wget -q x",
    "healthcheck exec": 'HEALTHCHECK CMD ["true", "x"]',
    "healthcheck none": "HEALTHCHECK NONE",
    "healthcheck small": "HEALTHCHECK --interval=1500ms --timeout=1h1m1s CMD true",
    "maintainer": "MAINTAINER Some One <a@b.example>",
    "onbuild": "ONBUILD RUN echo x\nONBUILD COPY a /b\nONBUILD ENV a=$b",
    "arg": "ARG a\nARG b=1\nARG c=${b}2\nENV d=$a$b$c\nRUN echo $b > /b",
    "arg hidden by env": "ENV a=env\nARG a=arg\nENV b=$a\nRUN echo $a > /a",
    "arg then env": "ARG a=arg\nENV a=${a}x\nRUN echo $a > /a",
    "run": "RUN echo hello > /hello",
    "run exec": 'RUN ["touch", "/x y"]',
    "run chain": "RUN mkdir -p /d/e && \\\n    echo 1 > /d/f && \\\n    # comment\n    chmod 600 /d/f",
    "run nothing": "RUN true",
    "run removes": "RUN rm /etc/group\nRUN rm -r /var",
    "run removes and makes": "RUN rm -rf /root && mkdir /root && touch /root/new",
    "run file to directory": "RUN rm /etc/group && mkdir /etc/group && touch /etc/group/x",
    "run directory to file": "RUN rm -r /var && touch /var",
    "run links": "RUN ln -s /etc /l && ln /etc/passwd /hard && ln -s dangling /d",
    "run owners": "RUN touch /f && chown 1000:50 /f && mkdir /d && chown bob /d && chmod 2775 /d",
    "run modes": "RUN touch /s && chmod 4755 /s && mkdir /t && chmod 1777 /t && chmod 700 /root",
    "run fifo": "RUN mkfifo /fifo",
    "run sparse": "RUN dd if=/dev/zero of=/sparse bs=1 count=1 seek=100000 2>/dev/null",
    "run big": "RUN yes | head -c 3000000 > /big",
    "run long names": "RUN mkdir -p /" + "/".join(["n" * 60] * 5) + " && touch /" + "y" * 200,
    "run environment": "ENV X='a b'\nRUN env | grep -v HOSTNAME | sort > /env",
    "run quotes": "RUN echo \"a  'b'\" '\"c\"' $((1+2)) > /q",
    "run umask": "RUN umask > /umask; touch /made",
    "run tmp": "RUN touch /tmp/x; ls -ld /tmp | cut -c1-10 > /mode",
    "run resolv": "RUN test -f /etc/resolv.conf && test -f /etc/hosts && test -f /etc/hostname && echo ok > /ok",
    "run devices": "RUN ls /dev | sort > /devices; test -c /dev/null",
    "run capabilities": "RUN grep Cap /proc/self/status > /caps",
    "run special letters": "RUN printf '%s' '$HOME `x` \\n {a,b} ; & | < >' > /letters",
    "copy file": "COPY a /x",
    "copy file deep": "COPY a /n/e/w/x",
    "copy to directory": "COPY a /etc/\nCOPY a /var\nCOPY a /made/",
    "copy several": "COPY a b empty /d/",
    "copy directory": "COPY dir /d",
    "copy directory slash": "COPY dir/ /d/",
    "copy directory into existing": "RUN mkdir -p /d/sub && chmod 711 /d /d/sub && touch /d/f1 /d/sub/old\nCOPY dir /d",
    "copy everything": "COPY . /all",
    "copy hollow": "COPY hollow /h",
    "copy sticky": "COPY sticky /s",
    "copy links": "COPY flink /x\nCOPY dlink /y\nCOPY flink dlink /z/",
    "copy wildcard": "COPY d*/f* /w/\nCOPY [ab] /v/",
    "copy wildcard one": "COPY emp* /one",
    "copy json": 'COPY ["with space", "/with space"]\nCOPY ["a", "b", "/j/"]',
    "copy relative": "WORKDIR /w\nCOPY a .\nCOPY a b ./\nCOPY dir sub\nCOPY a ../up",
    "copy variable": "ENV s=a t=/tt\nCOPY $s ${t}/x",
    "copy chown": "COPY --chown=bob:extra a /n1/n2/x\nCOPY --chown=7 dir /seven\nCOPY --chown=1000:0 dir /mixed",
    "copy over link": "RUN ln -s /etc/passwd /l\nCOPY a /l",
    "copy through link": "RUN ln -s /var /lv\nCOPY a /lv/x\nCOPY dir /lv\nCOPY a /lv/new/y",
    "copy over file": "COPY a /etc/passwd",
    "copy file over directory link": "RUN ln -s /var /lv\nCOPY a /lv",
    "copy into mode": "RUN mkdir -m 700 /m\nCOPY a /m/x",
    "copy same twice": "COPY a /x\nCOPY a /x",
    "copy then change": "COPY a /x\nRUN echo more >> /x && chmod 600 /x",
    "copy script and run": "COPY script.sh /s\nRUN /s",
    "copy root": "COPY a /",
    "copy dot in path": "COPY ./dir/./f1 /./x/../y",
    "add file": "ADD a /x",
    "add tar": "ADD inner.tar /un/",
    "add tgz": "ADD inner.tgz /un",
    "add tbz": "ADD inner.tbz /un",
    "add txz": "ADD inner.txz /un",
    "add not tar": "ADD not.tar /x",
    "add tar to root": "ADD inner.tar /",
    "add tar existing": "RUN mkdir -p /un/in && chmod 711 /un/in\nADD inner.tgz /un",
    "add several": "ADD a inner.tar b /d/",
    "add chown": "ADD --chown=5:6 a /x\nADD --chown=5:6 dir /d",
    "add directory": "ADD dir /d",
    "copy tar stays": "COPY inner.tar /x.tar",
    "mixed": 'ENV D=/srv/app\nWORKDIR $D\nCOPY dir .\nRUN ls > list && rm f1\nUSER bob\nEXPOSE 1\nCMD ["x"]',
}
# name -> whole Dockerfile
WHOLE: dict[str, str] = {
    "scratch env": "FROM scratch\nENV a=b",
    "scratch copy": 'FROM scratch\nCOPY a /\nCOPY dir /d\nCMD ["/a"]',
    "scratch tar": "FROM scratch\nADD inner.tar /\nLABEL x=y",
    "scratch workdir": "FROM scratch\nWORKDIR /a/b",
    "from argument": "ARG V=busybox\nFROM $V\nARG V\nENV v=$V",
    "from argument default": "ARG V\nFROM ${V:-busybox}\nENV a=b",
    "stages": "FROM busybox AS one\nRUN echo 1 > /f && mkdir -m 711 /d && echo 2 > /d/g\nFROM busybox\n"
    "COPY --from=one /f /f1\nCOPY --from=0 /d /d1\nCOPY --from=one /d/g /g/",
    "stages owners": "FROM busybox AS o\nRUN touch /f && chown 5:6 /f && mkdir /d && touch /d/x\n"
    "RUN chown -R bob:extra /d\n"
    "FROM busybox\nCOPY --from=o /f /\nCOPY --from=o /d /e\nCOPY --from=o --chown=1:2 /d /h",
    "stages wildcard": "FROM busybox AS o\nCOPY dir /d\nFROM scratch\nCOPY --from=o /d/*.txt /t/",
    "stages links": "FROM busybox AS o\nRUN ln -s /etc/passwd /l && ln -s /etc /e\nFROM scratch\n"
    "COPY --from=o /l /p\nCOPY --from=o /e/group /g",
    "stage from stage": "FROM busybox AS a\nENV x=1\nRUN touch /a\nFROM a AS b\nENV y=$x\nRUN touch /b\nFROM b\nCMD z",
    "copy from image": "FROM scratch\nCOPY --from=busybox /etc/group /g",
    "name with case": "FROM busybox AS One\nRUN echo x > /f\nFROM scratch\nCOPY --from=oNe /f /",
    "lower case": 'from busybox\nenv a=b\nrun touch /x\ncmd ["y"]',
    "comments": "# first\n\n# second\nFROM busybox\n  # indented\nENV a=b\nRUN echo '# x' > /f # shell's",
    "escape": "# escape=`\nFROM busybox\nENV a=C:\\x`$b\nRUN echo a `\n  b > /f",
    "syntax line": "# syntax=docker/dockerfile:1\nFROM busybox\nENV a=b",
    "windows lines": "FROM busybox\r\nENV a=b\r\nRUN echo x \\\r\n  > /f\r\n",
    "tabs": "FROM\tbusybox\nENV\ta=b\n\tRUN\techo x > /f",
    "no last newline": "FROM busybox\nENV a=b",
}
# name -> (Dockerfile, words that both say)
FAILING: dict[str, tuple[str, str]] = {
    "exit code": ("FROM busybox\nRUN exit 7", "The command '/bin/sh -c exit 7' returned a non-zero code: 7"),
    "not found": ("FROM busybox\nRUN nosuch", "The command '/bin/sh -c nosuch' returned a non-zero code: 127"),
    "exec not found": ('FROM busybox\nRUN ["nosuch"]', "executable file not found in $PATH"),
    "missing file": ("FROM busybox\nCOPY nofile /x", "COPY failed: file not found in build context or excluded by"),
    "ignored file": ("FROM busybox\nCOPY ignored /x", "excluded by .dockerignore: stat ignored: file does not exist"),
    "several to file": ("FROM busybox\nCOPY a b /x", "the destination must be a directory and end with a /"),
    "outside": ("FROM busybox\nCOPY ../a /x", "COPY failed: forbidden path outside the build context: ../a ()"),
    "no match": ("FROM busybox\nCOPY *.none /x/", "COPY failed: no source files were specified"),
    "bad port": ("FROM busybox\nEXPOSE 99999", "Invalid containerPort: 99999"),
    "bad signal": ("FROM busybox\nSTOPSIGNAL foo", "Invalid signal: foo"),
    "bad user": ("FROM busybox\nUSER nosuch\nRUN id", "unable to find user nosuch: no matching entries in passwd file"),
    "bad chown": ("FROM busybox\nCOPY --chown=nosuch a /", "can't find uid for user nosuch: no such user: nosuch"),
    "scratch alone": ("FROM scratch", "No image was generated. Is your Dockerfile empty?"),
    "stage index": ("FROM busybox\nCOPY --from=9 a /", "invalid from flag value 9: index out of bounds"),
    "unknown instruction": ("FROM busybox\nFOO x", "unknown instruction: FOO"),
    "no from": ("RUN x", "no build stage in current context"),
    "unknown flag": ("FROM busybox\nCOPY --nosuch=x a /", "unknown flag: "),
    "env one word": ("FROM busybox\nENV a", "ENV must have two arguments"),
    "copy one word": ("FROM busybox\nCOPY a", "COPY requires at least two arguments"),
    "onbuild chain": ("FROM busybox\nONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
    "onbuild from": ("FROM busybox\nONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
    "empty dockerfile": ("", "cannot be empty"),
    "shell not json": ("FROM busybox\nSHELL bash", "SHELL requires the arguments to be in JSON form"),
    "workdir nothing": ("FROM busybox\nWORKDIR", "WORKDIR requires exactly one argument"),
    "bad substitution": ("FROM busybox\nENV a=${b:x}", "unsupported modifier"),
    "health type": ("FROM busybox\nHEALTHCHECK PING", 'Unknown type "PING" in HEALTHCHECK (try CMD)'),
    "health interval": ("FROM busybox\nHEALTHCHECK --interval=1us CMD a", "cannot be less than 1ms"),
}
