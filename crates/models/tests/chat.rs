//! Chat templates against what Jinja2 renders with the settings of `transformers`.

mod common;

use gristmill_core::Error;
use gristmill_models::gguf::GgufWriter;
use gristmill_models::{ChatTemplate, Message};
use serde_json::json;
use std::process::Command;

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new("test", source).unwrap().with_clock(|| 1_735_646_700)
}

/// Renders without messages.
fn plain(source: &str) -> String {
    template(source).render(&[], false, "<s>", "</s>").unwrap()
}

fn failure(source: &str) -> Error {
    match ChatTemplate::new("test", source) {
        Ok(t) => t.render(&[Message::new("user", "hi")], true, "<s>", "</s>").unwrap_err(),
        Err(e) => e,
    }
}

fn talk() -> Vec<Message> {
    [("system", "Be brief."), ("user", " Hi "), ("assistant", "Yes?"), ("user", "Why <&'> é?")]
        .map(|(r, c)| Message::new(r, c))
        .into()
}

#[test]
fn turns() {
    let t = template(
        "{{ bos_token }}{% for message in messages %}\n\
         {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' -}}\n\
         {% endfor %}\n\
         {% if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}{% endif %}\n",
    );
    let want = "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
                <|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nWhy <&'> é?<|im_end|>\n";
    assert_eq!(t.render(&talk(), false, "<s>", "").unwrap(), want);
    let open = format!("{want}<|im_start|>assistant\n");
    assert_eq!(t.render(&talk(), true, "<s>", "").unwrap(), open);
    assert_eq!(t.render(&talk(), true, "", "").unwrap(), open[3..]);
}

/// The expected strings are Python's.
#[test]
fn json_is_python_s() {
    let value = r#"{'a': [1, 2.0, true, none, 1e16, 0.1], 'b': {}, 'c': [], 'é"<&\'>': "x\n\t\\\u2028\x07"}"#;
    let json = |options: &str| plain(&format!("{{{{ {value} | tojson{options} }}}}"));
    assert_eq!(
        json(""),
        "{\"a\": [1, 2.0, true, null, 1e+16, 0.1], \"b\": {}, \"c\": [], \"é\\\"<&'>\": \"x\\n\\t\\\\\u{2028}\\u0007\"}"
    );
    assert_eq!(
        json("(ensure_ascii=true, separators=[',', ':'])"),
        "{\"a\":[1,2.0,true,null,1e+16,0.1],\"b\":{},\"c\":[],\"\\u00e9\\\"<&'>\":\"x\\n\\t\\\\\\u2028\\u0007\"}"
    );
    assert_eq!(
        plain("{{ {'b': [1, {}], 'a': 2} | tojson(indent=2, sort_keys=true) }}"),
        "{\n  \"a\": 2,\n  \"b\": [\n    1,\n    {}\n  ]\n}"
    );
    assert_eq!(plain("{{ '😀' | tojson(ensure_ascii=true) }}"), "\"\\ud83d\\ude00\"");
}

#[test]
fn additions_of_transformers() {
    assert_eq!(
        plain("{{ none is iterable }} {{ [] is iterable }} {{ 'a' is iterable }}"),
        "False True True"
    );
    assert_eq!(plain("{{ strftime_now('%d %b %Y') }}"), "31 Dec 2024");
    assert_eq!(plain("a{% generation %}b{%- endgeneration %} c"), "ab c");
    assert_eq!(
        plain("{{ tools is none }} {{ documents is none }} {{ 'a-b'.split('-')[1] }}"),
        "True True b"
    );
    assert_eq!(
        plain(
            "{% set ns = namespace(n=1) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% if i == 1 %}{% continue %}{% endif %}x{% endfor %}{{ ns.n }}"
        ),
        "x4"
    );
    let t = template("{{ tools[0].name }} {{ messages[0].extra }}");
    let variables = json!({ "tools": [{ "name": "f" }] });
    let out = t.render_json(&json!([{ "extra": 5 }]), variables.as_object().unwrap(), true, "", "");
    assert_eq!(out.unwrap(), "f 5");
}

#[test]
fn failures_name_the_line_and_who_must_act() {
    let e = failure(
        "\n\n{% if messages[0].role != 'system' %}{{ raise_exception('No system!') }}{% endif %}",
    );
    assert!(
        matches!(&e, Error::Usage(s) if s.contains("No system!") && s.contains("line 3")),
        "{e}"
    );
    for (source, wanted) in [
        ("a\n{{ nothing() }}", "line 2"),
        ("a\n{% if %}", "line 2"),
        ("{{ messages | unheard_of }}", "unheard_of"),
        ("{{ messages[0].content.absent.more }}", "line 1"),
        ("{{ strftime_now('%Q') }}", "%Q is not supported"),
        ("{% include 'other' %}", "line 1"),
        ("{{ messages | tojson(indnt=2) }}", "indnt"),
    ] {
        let e = failure(source);
        assert!(matches!(e, Error::Model { .. }), "{source}: {e}");
        let text = e.to_string();
        assert!(text.contains(wanted) && text.lines().count() == 1, "{source}: {text}");
    }
}

#[test]
fn a_template_has_bounds() {
    for source in [
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'a' * 1000000000000 }}",
        "{% for i in range(90000) %}{{ 'a' * 100000 }}{% endfor %}",
    ] {
        assert!(matches!(failure(source), Error::Model { .. }), "{source}");
    }
    let deep = format!("{}{}", "{% if true %}".repeat(5000), "{% endif %}".repeat(5000));
    assert!(ChatTemplate::new("test", &deep).is_err());
}

/// The budget is far from what conversations take.
#[test]
fn a_long_conversation_has_room() {
    let turn = |i: usize| Message::new(["user", "assistant"][i % 2], "A word. ".repeat(200));
    let talk: Vec<Message> = (0..3000).map(turn).collect();
    let t = template(
        "{% set ns = namespace(all=[]) %}{% for m in messages %}{% set ns.all = ns.all + [m] %}{% endfor %}\
         {% for m in ns.all[1:] %}{% if m.role == 'user' or '</think>' not in m.content %}\
         {{ m.role + ': ' + m.content.split('</think>')[-1].strip() | trim ~ '\n' }}{% endif %}{% endfor %}",
    );
    let text = t.render(&talk, true, "", "").unwrap();
    assert!(text.len() > 2999 * 1600, "{}", text.len());
}

#[test]
fn from_a_file() {
    let file = |set: &dyn Fn(&mut GgufWriter)| {
        let mut w = GgufWriter::new("file");
        set(&mut w);
        common::open(w.write(Vec::new(), &[]).unwrap()).unwrap()
    };
    assert!(ChatTemplate::from_gguf(&file(&|_| ())).unwrap().is_none());
    let g = file(&|w| w.set("tokenizer.chat_template", "{{ messages[0].content }}").unwrap());
    let t = ChatTemplate::from_gguf(&g).unwrap().unwrap();
    assert_eq!(t.render(&[Message::new("user", "hi")], true, "", "").unwrap(), "hi");
    let g = file(&|w| w.set("tokenizer.chat_template", "{{").unwrap());
    assert!(ChatTemplate::from_gguf(&g).is_err());
}

/// A Python that can render templates, where there is one.
fn python() -> Option<String> {
    let python = std::env::var("GRISTMILL_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import jinja2"]).output();
    has.is_ok_and(|o| o.status.success()).then_some(python)
}

/// The oracle: `oracles/chat.py`, which renders with Jinja2 as `transformers` sets it up.
#[test]
fn templates_render_as_python_renders_them() {
    let Some(python) = python() else {
        eprintln!("skipped: no Python with jinja2 (name one in GRISTMILL_PYTHON)");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracles/chat.py");
    let more = std::env::var("GRISTMILL_CHAT_TEMPLATES");
    let out = Command::new(python).arg(script).args(more).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let corpus: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let (mut same, mut refused, mut wrong) = (0, 0, Vec::new());
    for case in corpus.as_array().unwrap() {
        let now = case["now"].as_i64().unwrap();
        let got = ChatTemplate::new("corpus", case["source"].as_str().unwrap()).and_then(|t| {
            t.with_clock(move || now).render_json(
                &case["messages"],
                case["variables"].as_object().unwrap(),
                case["generate"].as_bool().unwrap(),
                "<s>",
                "</s>",
            )
        });
        match (got, case["want"].as_str()) {
            (Ok(got), Some(want)) if got == want => same += 1,
            (Err(_), None) => refused += 1,
            (got, want) => wrong.push(format!(
                "{} {} {}\n got {got:?}\nwant {want:?} {}",
                case["name"], case["variables"], case["messages"], case["error"]
            )),
        }
    }
    for w in &wrong {
        eprintln!("{w}");
    }
    eprintln!("{same} the same, {refused} refused by both, {} different", wrong.len());
    assert!(wrong.is_empty() && same >= 500);
}
