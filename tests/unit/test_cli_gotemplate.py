"""The template language of ``--format``; what stands here has been compared with Docker's tools."""

from __future__ import annotations

from typing import Any

import pytest

from corten.cli.gotemplate import Object, Template, TemplateError

DATA: dict[str, Any] = {
    "Name": "/web",
    "Id": "0123456789abcdef",
    "Names": ["a", "b", "c"],
    "State": {"Running": True, "Pid": 12, "Status": "running"},
    "Config": {
        "Labels": {"plain": "y", "com.example.x": "1"},
        "Env": ["A=1", "B=2"],
        "Entrypoint": None,
        "Volumes": None,
    },
    "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "443/tcp": None},
    "HostConfig": {"Memory": 0, "PidsLimit": None},
    "Float": 1.5,
    "Empty": [],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{{.Name}}", "/web"),
        ("{{ .Name }}", "/web"),
        ("{{.State.Pid}}", "12"),
        ("{{.State.Running}}", "true"),
        ("{{.Names}}", "[a b c]"),
        ("{{.Config.Labels}}", "map[com.example.x:1 plain:y]"),
        ("{{.HostConfig.PidsLimit}}", "<nil>"),
        ("{{.Config.Entrypoint}}{{.Config.Volumes}}", "[]map[]"),
        ("{{json .Config.Entrypoint}}", "null"),
        ("{{.Config.Labels.plain}} {{.Config.Labels.other}}", "y <no value>"),
        ('{{index .Config.Labels "com.example.x"}}', "1"),
        ('[{{index .Config.Labels "none"}}]', "[]"),
        ("{{index .Names 1}}", "b"),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        ('{{with index .Ports "443/tcp"}}x{{else}}closed{{end}}', "closed"),
        ("{{.Float}}", "1.5"),
        # pipelines, functions
        ("{{.Name | upper}}", "/WEB"),
        ('{{.Names | len | printf "%03d"}}', "003"),
        ('{{join .Names "/"}}', "a/b/c"),
        ('{{split "a:b" ":"}}', "[a b]"),
        ('{{index (split "a:b" ":") 1}}', "b"),
        ("{{title .Name}} {{lower `ABC`}}", "/Web abc"),
        ("[{{pad .Name 1 2}}][{{pad `` 1 2}}]", "[ /web  ][]"),
        ("{{truncate .Id 4}}", "0123"),
        ("{{slice .Id 2 4}}{{slice .Names 1}}", "23[b c]"),
        ("{{json .State}}", '{"Running":true,"Pid":12,"Status":"running"}'),
        ("{{json .Name}}", '"/web"'),
        ("{{println .State.Pid 1}}", "12 1\n"),
        ("{{print 1 2 `x` 3}}", "1 2x3"),
        (
            '{{printf "%-5s|%5s|%q|%v|%t|%x|%c|%%|%.1f" "ab" "cd" "e\\n" 7 true 255 65 2.25}}',
            'ab   |   cd|"e\\n"|7|true|ff|A|%|2.2',
        ),
        ('{{printf "%d" "x"}} {{printf "%s"}} {{printf "x" 1}}', "%!d(string=x) %!s(MISSING) x%!(EXTRA int=1)"),
        ("{{html `<a&b>`}} {{urlquery `a b/c`}}", "&lt;a&amp;b&gt; a+b%2Fc"),
        # decisions
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if .Empty}}x{{else if eq .State.Pid 12}}twelve{{else}}z{{end}}", "twelve"),
        ("{{if not .HostConfig.Memory}}unlimited{{end}}", "unlimited"),
        ("{{if and .State.Running (gt .State.Pid 10) (le .State.Pid 12)}}y{{end}}", "y"),
        ("{{or .Empty `default`}} {{and 1 0}}", "default 0"),
        ("{{eq .State.Pid 1 2 12}} {{ne 1 2}} {{lt `a` `b`}} {{ge 2 2}}", "true true true true"),
        ("{{and false (index .Names 99)}}", "false"),
        ("{{with .State.Health}}{{.Status}}{{else}}none{{end}}", "none"),
        ("{{with $s := .State}}{{$s.Pid}}{{.Pid}}{{end}}", "1212"),
        ("{{with .Empty}}a{{else with .Names}}{{len .}}{{end}}", "3"),
        # loops
        ("{{range .Names}}<{{.}}>{{end}}", "<a><b><c>"),
        ("{{range $i, $n := .Names}}{{if $i}},{{end}}{{$n}}{{end}}", "a,b,c"),
        ("{{range $n := .Names}}{{$n}}{{$.State.Pid}} {{end}}", "a12 b12 c12 "),
        ("{{range $p, $b := .Ports}}{{$p}}={{len $b}} {{end}}", "443/tcp=0 80/tcp=1 "),
        ("{{range .Empty}}x{{else}}nothing{{end}}", "nothing"),
        ("{{range .Names}}{{if eq . `b`}}{{continue}}{{end}}{{.}}{{end}}", "ac"),
        ("{{range .Names}}{{if eq . `b`}}{{break}}{{end}}{{.}}{{end}}", "a"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        # variables
        ("{{$x := len .Names}}{{$x}}{{$x = 5}}{{$x}}", "35"),
        ("{{$x := 1}}{{range .Names}}{{$x = .}}{{end}}{{$x}}", "c"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        # white space, comments, quoting
        ("a  {{- .Name -}}  b", "a/webb"),
        ("a {{/* no */}} b{{- /* no */ -}} c", "a  bc"),
        ("{{- 3 -}} x {{ -3 }}", "3x -3"),
        ('{{"}}"}}{{`{{`}}', "}}{{"),
        ('{{"\\u00e4\\t\\""}}', 'ä\t"'),
        ("{{'a'}} {{0x1f}} {{1e3}} {{nil | json}}", "97 31 1000 null"),
        ("{{.State.Pid}}}", "12}"),
    ],
)
def test_output(template: str, text: str) -> None:
    assert Template(template).render(DATA) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{.Name", "template: :1: unclosed action"),
        ("{{", "template: :1: unclosed action"),
        ("a\n{{.Name}", 'template: :2: unexpected "}" in operand'),
        ("{{}}", "template: :1: missing value for command"),
        ("{{.Name | }}", "template: :1: missing value for command"),
        ("{{nope .Name}}", 'template: :1: function "nope" not defined'),
        ("{{$x}}", 'template: :1: undefined variable "$x"'),
        ("{{if .Name}}", "template: :1: unexpected EOF"),
        ("{{if}}x{{end}}", "template: :1: missing value for if"),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("{{else}}", "template: :1: unexpected {{else}}"),
        ("{{if .Name}}a{{else}}b{{else}}c{{end}}", "expected end; found {{else}}"),
        ("{{break}}", "template: :1: {{break}} outside {{range}}"),
        ('{{"open}}', "template: :1: unterminated quoted string"),
        ("{{(.Name}}", "template: :1: unclosed left paren"),
        ("{{.Name)}}", "template: :1: unexpected right paren"),
        ("{{/* open }}", "template: :1: unclosed comment"),
        ("{{define `x`}}{{end}}", "{{define}} is not supported"),
        ("{{" + "(" * 300 + "1" + ")" * 300 + "}}", "nested too deeply"),
    ],
)
def test_syntax_errors(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(template)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{.Foo}}", 'template: :1:2: executing "" at <.Foo>: map has no entry for key "Foo"'),
        ("{{.State.Foo}}", 'at <.State.Foo>: map has no entry for key "Foo"'),
        ("{{.State.Health.Status}}", "nil pointer evaluating interface {}.Status"),
        ("{{.Name.Foo}}", "can't evaluate field Foo in type string"),
        ("{{index .Names 7}}", "error calling index: index out of range: 7"),
        ("{{index .Names `x`}}", "cannot index slice/array with type string"),
        ("{{len 3}}", "error calling len: len of type int"),
        ("{{eq 1 `x`}}", "incompatible types for comparison"),
        ("{{upper 3}}", "wrong type for value; expected string; got int"),
        ("{{join .Name `,`}}", "expected []string; got string"),
        ("{{upper}}", "wrong number of args for upper: got 0"),
        ("{{.Name 1}}", "Name has arguments but cannot be invoked as function"),
        ("{{`x` 1}}", "can't give argument to non-function"),
        ("{{range .State.Running}}{{end}}", "range can't iterate over true"),
    ],
)
def test_execution_errors(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(template).render(DATA)
    assert message in str(caught.value)


class Row(Object):
    type_name = "RowContext"

    def field(self, name: str, arguments: list[Any]) -> Any:
        return {"ID": lambda: "x", "Label": lambda key: key * 2}[name](*arguments)

    def document(self) -> Any:
        return {"ID": "x"}


def test_objects_have_fields_and_methods() -> None:
    assert Template('{{.ID}} {{.Label "ab"}} {{json .}} {{"c" | .Label}}').render(Row()) == 'x abab {"ID":"x"} cc'
    with pytest.raises(TemplateError, match=r"can't evaluate field Nope in type \*formatter.RowContext"):
        Template("{{.Nope}}").render(Row())
    with pytest.raises(TemplateError, match="wrong number of args for ID"):
        Template("{{.ID 1}}").render(Row())
