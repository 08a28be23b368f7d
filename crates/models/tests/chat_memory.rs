//! What a rendering takes, of templates that make much of little.

#[path = "common/counting.rs"]
mod counting;

use counting::memory;
use gristmill_models::ChatTemplate;

/// Every way in which a template can make much of little, each in a loop. With a budget of 8 MiB none takes
/// more than a few times that, and each ends with an error that names its line.
#[test]
fn a_template_s_memory_has_a_bound() {
    const BUDGET: usize = 8 << 20;
    let set = |value: &str| format!("{{% set ns.x = {value} %}}");
    let (text, list, map) = ("'abcdefgh'", "['abcdefgh']", "{'a': 'abcdefgh'}");
    let cases = [
        (text, set("ns.x ~ ns.x")),
        (text, set("ns.x + ns.x")),
        (text, set("ns.x|safe + ns.x")),
        (text, set("ns.x * 1000")),
        (text, set("1000 * ns.x")),
        (text, "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}".into()),
        (
            text,
            "{% set ns.x %}{% filter upper %}{{ ns.x }}{{ ns.x }}{% endfilter %}{% endset %}"
                .into(),
        ),
        (text, "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns.x = m(ns.x) %}".into()),
        (
            text,
            "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}\
            {% set ns.x %}{% call m() %}{{ ns.x }}{% endcall %}{% endset %}"
                .into(),
        ),
        (text, set("[ns.x, ns.x]|join")),
        (text, set("ns.x.join([ns.x, 'a', 'b'])")),
        (text, set("(ns.x|list)|join(ns.x)")),
        (text, set("(ns.x|list)|join(d=ns.x)")),
        (text, set("ns.x|replace('', ns.x)")),
        (text, set("ns.x.replace('', ns.x)")),
        (text, set("[ns.x]|map('replace', '', ns.x)|first")),
        (text, set("('\\n' ~ ns.x ~ ns.x)|indent(1000)")),
        (text, set("ns.x|indent(width=4000000000000)")),
        (text, set("'%s%s'|format(ns.x, ns.x)")),
        (text, set("'{0}{0}'.format(ns.x)")),
        (text, set("'%2000000000d'|format(1)")),
        (text, set("'%*d'|format(2000000000, 1)")),
        (text, set("'%.2000000000f'|format(1.5)")),
        (text, set("'{:>2000000000}'.format(1)")),
        (text, set("'{:>{}}'.format(1, 2000000000)")),
        (text, set("ns.x|pprint ~ ns.x|pprint")),
        (text, set("ns.x|string ~ (ns.x|e)")),
        (text, set("(ns.x ~ '&<>' ~ ns.x)|e")),
        (text, set("ns.x|tojson ~ ns.x|tojson")),
        (text, set("[ns.x, ns.x]|tojson(indent=64)")),
        (text, set("[ns.x, [[[[1]]]]]|tojson(indent=ns.x)")),
        (text, set("[ns.x, 1, 2]|tojson(separators=[ns.x, ns.x])")),
        (text, set("['\\x00' ~ ns.x, ns.x]|string")),
        (text, set("[ns.x, ns.x]|string")),
        (text, set("ns.x ~ [ns.x]")),
        (text, set("ns.x.zfill(10000) ~ ns.x")),
        (text, set("(ns.x ~ ns.x).split('')|join")),
        (text, set("(ns.x ~ ns.x)[::-1]")),
        (text, set("(ns.x ~ ns.x)[0:]")),
        (list, set("ns.x + ns.x")),
        (list, set("ns.x + ns.x[::-1]")),
        (list, set("(ns.x + ns.x)[0:]")),
        (list, set("ns.x * 1000")),
        (list, set("(ns.x + ns.x)|list")),
        (list, set("ns.x|chain(ns.x)")),
        (list, set("[ns.x, ns.x]|sum(start=[])")),
        (list, set("ns.x|batch(100000000, 'a')|list")),
        (list, set("ns.x|slice(100000000)|list")),
        (list, set("(ns.x|list + ns.x|list)|sort")),
        (list, set("ns.x|map('string')|list + ns.x")),
        (list, set("[ns.x, ns.x]")),
        (list, set("(ns.x, ns.x)")),
        (list, set("[ns.x]|batch(2)|list + ns.x")),
        (list, set("range(100000)|list + ns.x")),
        (map, set("{'a': ns.x, 'b': ns.x}")),
        (map, set("dict(ns.x, a=ns.x, b=ns.x)")),
        (map, set("dict(a=ns.x, b=ns.x)")),
        (map, set("ns.x.items()|list + ns.x.items()|list") + &set("{'a': ns.x, 'b': ns.x}")),
        (list, set("ns")),
        (list, set("[ns]")),
        (list, set("namespace(a=ns, b=ns)")),
        (list, set("[ns.x]")),
    ];
    for (first, body) in &cases {
        let source = format!(
            "{{% set ns = namespace(x={first}) %}}\n{{% for i in range(90000) %}}{body}{{% endfor %}}"
        );
        expect_bounded(&source, BUDGET);
    }
    // What is written out, and what is never given a name.
    for source in [
        "{% set x = 'a' * 1000000 %}\n{% for i in range(90000) %}{{ x }}{% endfor %}".to_owned(),
        format!("\n{{% for i in range(90000) %}}{}{{% endfor %}}", "a long text ".repeat(100)),
        format!("{{% set x = 'a' * 100000 %}}\n{{% set y = [{}] %}}", "x ~ x, ".repeat(1000)),
        "{% set ns = namespace(x=[]) %}\n{% for i in range(90000) %}{% set ns.x = ns.x + ['a' * 1000 ~ i] %}{% endfor %}".to_owned(),
    ] {
        expect_bounded(&source, BUDGET);
    }
    // A filter that is given by name, given by name.
    let nested = format!("\n{{{{ 'a'|map({}'upper')|list }}}}", "'map', ".repeat(1000));
    expect_bounded(&nested, BUDGET);
    // The compiler works out what is constant; products are kept from it.
    let source =
        format!("{{% if false %}}{{{{ [{}] }}}}{{% endif %}}", "'a' * 99999999, ".repeat(100));
    let template = || ChatTemplate::new("test", &source).map(|t| t.render(&[], true, "", ""));
    assert!(memory(|| template().unwrap().unwrap()).0 < 1 << 20);
}

fn expect_bounded(source: &str, budget: usize) {
    let template = ChatTemplate::new("test", source).unwrap().with_budget(budget as u64);
    let begin = std::time::Instant::now();
    let mut got = None;
    let (peak, largest) = memory(|| got = Some(template.render(&[], true, "", "")));
    let what = format!("{source}: {peak} bytes, at most {largest} at once, {:?}", begin.elapsed());
    eprintln!("{} MiB {:?} {}", peak >> 20, begin.elapsed(), source.lines().last().unwrap_or(""));
    let error = got.unwrap().expect_err(&what).to_string();
    assert!(error.contains("line "), "{what}: {error}");
    assert!(!error.contains("engine failed"), "{what}: {error}");
    assert!(peak < 4 * budget, "{what}: {error}");
    assert!(begin.elapsed().as_secs() < 20, "{what}");
}
