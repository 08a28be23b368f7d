"""Renders conversations with chat templates as `transformers` does, and writes them as JSON.

    python3 oracles/chat.py [DIR_OF_JINJA_FILES ...] > corpus.json

Needs jinja2 only: the environment is set up as in transformers/utils/chat_template_utils.py. The
templates are those beside this file, written for this project after the models' documented formats
and with the idioms that models' own templates use, and all `*.jinja` of the folders given. The test
`templates_render_as_python_renders_them` in crates/models/tests/chat.rs runs this and compares; give
it further folders in GRISTMILL_CHAT_TEMPLATES, and a Python that has jinja2 in GRISTMILL_PYTHON.
"""

import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

NOW = 1735646700


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(lineno)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def strftime_now(form):
    return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(form)


env = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = strftime_now

def say(role, content, **more):
    return {"role": role, "content": content, **more}


def function(name, description, properties, required):
    parameters = {"type": "object", "properties": properties, "required": required}
    fields = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": fields}


def call(name, arguments, id="abcdefghi"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


S = say("system", "You are <b>brief</b>.")
U = say("user", "  Who's there? \"é今😀\"\n")
A = say("assistant", "<think>\nhm\n</think>\n\nIt's & me.")
U2 = say("user", "Why?")
PARTS = say("user", [{"type": "text", "text": " Look: "}, {"type": "image"}, {"type": "text", "text": "so?"}])
TOOL = function(
    "weather",
    "It's <the> weather & é",
    {"city": {"type": "string", "description": "where"}, "n": {"type": "integer"}},
    ["city"],
)
NESTED = function(
    "search",
    "Finds.\nOn two lines.",
    {
        "items": {"type": "array", "items": {"type": "string"}, "description": "named like a method"},
        "kind": {"type": "string", "enum": ["a", "b\"c"]},
        "deep": {"type": "object", "properties": {"x": {"type": ["number", "null"]}}},
        "limit": {"type": "number", "default": 0.00001, "maximum": 1e16, "nullable": True},
        "keys": {},
    },
    [],
)
CALL = say("assistant", "", tool_calls=[call("weather", {"city": "Zürich", "n": 2})])
CALLS = say(
    "assistant",
    "Let me see.",
    tool_calls=[
        call("weather", {"city": "O'Hare \\ \"x\"", "n": -1}, "000000001"),
        call("search", {"items": ["a", None, True, 1.0, 2.5e-7], "deep": {}, "s": "a\nb\t"}, "000000002"),
    ],
)
TEXT_CALL = say("assistant", None, tool_calls=[call("weather", '{"city": "Bern"}')])
RESULT = say("tool", '{"t": 20.5}', name="weather", tool_call_id="abcdefghi")
RESULT_1 = say("tool", "20", name="weather", tool_call_id="000000001")
RESULT_2 = say("tool", "[]", name="search", tool_call_id="000000002")
OBJECT = say("tool", {"t": [1, 2.0, "x"], "ok": True}, name="weather", tool_call_id="abcdefghi")
THOUGHT = say("assistant", "Because.", reasoning_content="\nLet me think.\n")
LONG = [say("user" if i % 2 == 0 else "assistant", f"turn {i}\n" * (i % 3)) for i in range(21)]
CASES = [
    ([U], {}),
    ([S, U], {}),
    ([S, U, A, U2], {}),
    ([U, A], {}),
    ([S, U], {"enable_thinking": False}),
    ([U, A, U2], {"enable_thinking": True, "thinking": True}),
    ([S, U], {"tools": [TOOL]}),
    ([U], {"tools": [TOOL, NESTED]}),
    ([U, CALL, RESULT, A, U2], {"tools": [TOOL]}),
    ([S, U, CALLS, RESULT_1, RESULT_2], {"tools": [TOOL, NESTED]}),
    ([U, CALLS, RESULT_1, RESULT_2, A, U2, CALL, RESULT], {"tools": [NESTED]}),
    ([U, TEXT_CALL, RESULT, THOUGHT, U2], {"tools": [TOOL]}),
    ([U, CALL, OBJECT], {"tools": [TOOL]}),
    ([U, THOUGHT, U2, THOUGHT], {}),
    ([S, PARTS], {}),
    ([U, say("assistant", [{"type": "text", "text": "x"}]), U2], {}),
    ([say("system", [{"type": "text", "text": "Be."}]), U], {}),
    (LONG, {}),
    ([S, *LONG], {"tools": []}),
    ([A, A], {}),
    ([U, U2], {}),
    ([S], {}),
    ([say("developer", "Do."), U], {"reasoning_effort": "high"}),
    ([say("user", "")], {}),
    ([say("user", "{{ 7 * 7 }}{% if %}<|im_end|>\r\n\u2028")], {}),
    ([say("user", None)], {}),
    ([{"role": "user"}], {}),
    ([], {}),
    ([S, U], {"documents": [{"doc_id": 1, "title": "T", "text": "One."}, {"doc_id": "b", "text": "Two."}]}),
    ([U], {"controls": {"length": "short"}, "date_string": "26 Jul 2024"}),
]

folders = [pathlib.Path(__file__).parent / "templates", *map(pathlib.Path, sys.argv[1:])]
out = []
for path in sorted(path for folder in folders for path in folder.glob("*.jinja")):
    source = path.read_bytes().decode("utf-8")
    for messages, extra in CASES:
        for generate in (True, False):
            case = {
                "name": path.name,
                "source": source,
                "messages": messages,
                "variables": extra,
                "generate": generate,
                "now": NOW,
            }
            try:
                case["want"] = env.from_string(source).render(
                    **{
                        "tools": None,
                        "documents": None,
                        "messages": messages,
                        "add_generation_prompt": generate,
                        "bos_token": "<s>",
                        "eos_token": "</s>",
                        **extra,
                    }
                )
            except Exception as e:
                case["error"] = f"{type(e).__name__}: {e}"
            out.append(case)
json.dump(out, sys.stdout)
