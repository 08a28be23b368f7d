//! The text form prints and parses back, and refuses what recording would refuse.

use gristmill_ir::*;

fn tiny() -> Program {
    let mut p = Program::new("tiny");
    p.prefix_closed = true;
    let group = p.group(Some(16));
    let kv = StateKind::Paged {
        group,
        k: 32,
        v: 32,
        k_type: gristmill_core::DType::F16,
        v_type: gristmill_core::DType::Q8_0,
    };
    let cache = p.state(kv);
    let table = p.tensor("token_embd.weight", 512, 64);
    let weight = Some(p.vector("blk.0.attn_norm.weight", 64));
    let norm = Norm { kind: NormKind::Rms, weight, bias: None, eps: 1e-5, offset: 0.0 };
    let w = vec![p.tensor("q", 64, 64), p.tensor("k", 32, 64), p.tensor("v", 32, 64)];
    let factors = Some(p.vector("rope_freqs.weight", 4));
    let rope = Some(Rope {
        pairs: RopePairs::Adjacent,
        dims: 8,
        theta: 1e4,
        factors,
        scale: 0.25,
        magnitude: 1.0,
        yarn: Some(Yarn { original_context: 4096, fast: 32.0, slow: 1.0, truncate: true }),
        sections: Some([2, 1, 1]),
    });
    let embed = Op::Embed { table, scale: 1.0, positions: None, types: None };
    let x = p.one("embed", embed).unwrap();
    let n = p.one("attn_norm", Op::Norm { x, norm: norm.clone() }).unwrap();
    let qkv = Op::Qkv {
        x: n,
        w,
        bias: vec![],
        heads: 8,
        kv_heads: 4,
        head_dim: 8,
        q_norm: None,
        k_norm: None,
        norm_over: QkNorm::Head,
        rope,
        cache,
    };
    let q = p.one("qkv", qkv).unwrap();
    let attention = Op::Attention {
        q,
        cache,
        heads: 8,
        kv_heads: 4,
        head_dim: 8,
        scale: 0.35355338,
        softcap: Some(50.0),
        window: Some(16),
        sinks: None,
    };
    let a = p.one("attn", attention).unwrap();
    let add = Op::AddNorm { x, delta: a, post: Some(norm.clone()), scale: 0.5, norm };
    let (_, normed) = p.two("ffn_norm", add).unwrap();
    p.output(Output::Hidden, normed);
    p
}

#[test]
fn prints_and_parses_back() {
    let p = tiny();
    let text = p.to_string();
    let back: Program = text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(back, p);
    assert_eq!(back.to_string(), text);
}

#[test]
fn cut_and_watched_programs_are_programs() {
    let p = tiny();
    let cut = p.stop_after("ffn_norm").unwrap();
    assert_eq!(cut.outputs.len(), 2);
    let cut = p.stop_after("attn_norm").unwrap();
    assert_eq!((cut.nodes.len(), cut.values.len(), cut.outputs.len()), (2, 2, 1));
    assert_eq!(cut.tensors, p.tensors);
    let used = cut.tensors.iter().zip(cut.used_tensors()).filter(|t| t.1);
    let used: Vec<&str> = used.map(|t| t.0.name.as_str()).collect();
    assert_eq!(used, ["token_embd.weight", "blk.0.attn_norm.weight"]);
    assert!(p.used_tensors().iter().all(|&u| u));
    let watched = p.watched();
    assert_eq!(watched.outputs.len(), p.values.len());
    for program in [cut, watched] {
        program.verify().unwrap();
        let text = program.to_string();
        assert!(text.contains("output value %1"), "{text}");
        assert_eq!(text.parse::<Program>().unwrap(), program);
    }
    let e = p.stop_after("blk.7.attn").unwrap_err().to_string();
    assert!(e.contains("no operation `blk.7.attn`; there are attn, and others"), "{e}");
}

#[test]
fn refuses_with_the_line() {
    let text = tiny().to_string();
    for (from, to, message) in [
        ("%1 = norm(x=%0", "%1 = norm(x=%7", "%7 is used before it is computed"),
        ("%1 = norm(", "%1 = nrom(", "`nrom` is no operation"),
        ("x=%0, norm=(kind=rms", "x=%0, norm=(kind=rmss", "`rmss` is no NormKind"),
        (", eps=0.00001", "", "the field `eps` is missing"),
        ("tensor @k [1, 32, 64]", "tensor @k [1, 32, 60]", "k is [1, 32, 60], not [1, 32, 64]"),
        ("head_dim=8, rope", "head_dim=9, rope", "outputs for 8 + 2"),
        (", window=16", ", window=17", "whose pages go after Some(16)"),
        ("output hidden", "output hiden", "`hiden` is no output"),
        ("state $0 paged group=0", "state $0 paged group=3", "of group 3, not declared"),
    ] {
        assert!(text.contains(from), "{from} is not in\n{text}");
        let error = text.replace(from, to).parse::<Program>().unwrap_err().to_string();
        assert!(error.contains(message), "{from} -> {to}: {error}");
    }
}

/// A route chooses among as many experts as the stacks have, for every token.
#[test]
fn stacks_are_of_their_router() {
    let mut p = Program::new("mixture");
    let x = p.one("x", Op::Read { input: Input::Hidden, width: 8 }).unwrap();
    let route = |p: &mut Program, x| Op::Route {
        x,
        w: p.tensor("router", 6, 8),
        bias: None,
        choice_bias: None,
        k: 2,
        gating: Gating::Softmax,
        renormalise: false,
        scale: 1.0,
    };
    let op = route(&mut p, x);
    let r = p.one("route", op).unwrap();
    let stack = |p: &mut Program, name: &str, n| vec![p.tensor_stack(name, n, 10, 8)];
    let gate = |w, route| Op::ExpertGateUp { x, route, w, bias: vec![], act: Act::Silu };
    let w = stack(&mut p, "seven", 7);
    let error = p.one("a", gate(w, r)).unwrap_err().to_string();
    assert!(error.contains("%1 chooses among 6, not 7"), "{error}");
    let w = stack(&mut p, "six", 6);
    let error = p.one("b", gate(w.clone(), x)).unwrap_err().to_string();
    assert!(error.contains("%0 is no route"), "{error}");
    let wanted = p.one("wanted", Op::SelectRows { x }).unwrap();
    let op = route(&mut p, wanted);
    let error = p.one("c", op).unwrap_err().to_string();
    assert!(error.contains("has a row for Wanted, not for Tokens"), "{error}");
    p.one("d", gate(w, r)).unwrap();
}

#[test]
fn yarn_leaves_fast_pairs_and_scales_slow_ones() {
    let rope = Rope {
        pairs: RopePairs::Halves,
        dims: 128,
        theta: 1e6,
        factors: None,
        scale: 0.25,
        magnitude: 1.0,
        yarn: Some(Yarn { original_context: 32768, fast: 32.0, slow: 1.0, truncate: true }),
        sections: None,
    };
    let plain = Rope { scale: 1.0, yarn: None, ..rope.clone() }.frequencies(None);
    let yarn = rope.frequencies(None);
    assert_eq!(yarn[0], plain[0]);
    assert!((yarn[63] / plain[63] - 0.25).abs() < 1e-6);
    assert!(yarn.iter().zip(&plain).all(|(y, p)| (0.2499..=1.0001).contains(&(y / p))));
}
