"""Renders chat templates as `transformers` does (jinja2 only), for tests/chat.rs.

    python3 chat_corpus.py DIR_OF_JINJA_FILES > corpus.json
    GRISTMILL_CHAT_CORPUS=corpus.json cargo test -p gristmill-models --test chat
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

S = {"role": "system", "content": "You are <b>brief</b>."}
U = {"role": "user", "content": "  Who's there? \"é今😀\"\n"}
A = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIt's & me."}
U2 = {"role": "user", "content": "Why?"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "It's <the> weather & é",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "where"}, "n": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "abcdefghi",
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Zürich", "n": 2}},
        }
    ],
}
RESULT = {"role": "tool", "name": "weather", "tool_call_id": "abcdefghi", "content": '{"t": 20.5}'}
CASES = [
    ([U], {}),
    ([S, U], {}),
    ([S, U, A, U2], {}),
    ([U, A], {}),
    ([S, U], {"enable_thinking": False}),
    ([S, U], {"tools": [TOOL]}),
    ([U, CALL, RESULT, A, U2], {"tools": [TOOL]}),
    ([A, A], {}),
]

out = []
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
    source = path.read_text(encoding="utf-8")
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
