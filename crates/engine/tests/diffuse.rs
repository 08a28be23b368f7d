//! Masked diffusion on a device that is a table of probabilities: what is drawn is as likely as it
//! is by enumeration, and every pass runs what it says it runs.

mod common;

use common::{mix, no_weights};
use gristmill_core::{DType, Error, HostTensor, Result};
use gristmill_engine::diffuse::{Blocks, Cache, DiffuseRequest, Diffusion, Rule};
use gristmill_engine::{Engine, EngineOptions};
use gristmill_ir::*;
use std::sync::{Arc, Mutex};
use std::task::Waker;

/// Tokens, the last of them the mask.
const VOCAB: u32 = 5;
const MASK: u32 = 4;
/// Places of a text.
const LENGTH: usize = 3;

/// Probabilities of the tokens at a place, after everything it sees; the mask has none.
fn conditional(place: usize, seen: &[u32]) -> [f64; 4] {
    let h = seen.iter().fold(mix(9, place as u64), |h, &id| mix(h, u64::from(id) + 1));
    let weights = [0, 1, 2, 3].map(|id| 0.1 + (mix(h, id + 50) % 1000) as f64 / 1000.0);
    weights.map(|w| w / weights.iter().sum::<f64>())
}

/// Pages of token ids, whose tokens are drawn from [`conditional`] by inversion.
#[derive(Clone, Default)]
struct TableModel(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    page_tokens: usize,
    cells: Vec<u32>,
    /// Of each wanted row its place and what it sees.
    rows: Vec<(usize, Vec<u32>)>,
    picked: Vec<Picked>,
    /// Tokens run by each pass.
    runs: Vec<Vec<u32>>,
    steps: u64,
    /// Whether it proposes nothing for masked places.
    blind: bool,
}

impl Backend for TableModel {
    type Weights = ();
    type Context = ();
    type Plan = ();

    fn capabilities(&self) -> Capabilities {
        let mut ops = vec!["embed", "select_rows", "linear"];
        ops.extend((!self.0.lock().unwrap().blind).then_some(UNMASK));
        Capabilities {
            name: "a table".into(),
            compute: vec![DType::F32],
            weights: vec![DType::F32],
            kv: vec![DType::F16],
            page_multiple: 1,
            ops,
        }
    }

    fn load(
        &self,
        _: &[&Program],
        _: &mut dyn FnMut(&TensorDecl) -> Result<HostTensor>,
        _: &Options,
    ) -> Result<()> {
        Ok(())
    }

    fn create(&self, _: &[StateKind], layout: &Layout) -> Result<()> {
        let mut s = self.0.lock().unwrap();
        s.page_tokens = layout.page_tokens as usize;
        s.cells = vec![u32::MAX; (layout.pages[0] * layout.page_tokens) as usize];
        Ok(())
    }

    fn compile(&self, _: &Program, _: &(), _: &mut (), _: Size, _: &Options) -> Result<()> {
        Ok(())
    }

    fn launch(&self, _: &(), _: &mut (), b: &Batch<'_>) -> Result<Step> {
        let s = &mut *self.0.lock().unwrap();
        s.rows.clear();
        s.picked.clear();
        let n = s.page_tokens;
        for seq in 0..b.kv_len.len() {
            let table = &b.pages[b.page_starts[seq] as usize..b.page_starts[seq + 1] as usize];
            let cell = |i: u32| table[i as usize / n] as usize * n + i as usize % n;
            let tokens = b.seq_starts[seq] as usize..b.seq_starts[seq + 1] as usize;
            for t in tokens.clone() {
                let Token::Id(id) = b.tokens[t] else { panic!("a diffusion knows its tokens") };
                assert_eq!(b.positions[t], [b.kv_index[t]; 3]);
                s.cells[cell(b.kv_index[t])] = id;
            }
            for &row in b.rows.iter().filter(|&&r| tokens.contains(&(r as usize))) {
                let [from, to] = b.visible[row as usize];
                assert!(from == 0 && to <= b.kv_len[seq]);
                let seen: Vec<u32> = (0..to).map(|i| s.cells[cell(i)]).collect();
                assert!(!seen.contains(&u32::MAX), "a key that nobody wrote");
                s.rows.push((b.kv_index[row as usize] as usize, seen));
            }
            s.runs.push(b.kv_index[tokens].to_vec());
        }
        s.steps += 1;
        Ok(Step(s.steps))
    }

    fn sample(&self, _: &mut (), _: Step, b: &SampleBatch<'_>) -> Result<()> {
        let s = &mut *self.0.lock().unwrap();
        for u in b.unmask {
            let (place, seen) = &s.rows[u.row as usize];
            let p = conditional(*place, seen);
            let bits = mix(mix(mix(77, u.seed), u.counter), 5) >> 11;
            let uniform = bits as f64 / (1u64 << 53) as f64;
            let mut sum = 0.0;
            let id = p.iter().position(|p| {
                sum += p;
                uniform < sum
            });
            let id = id.unwrap_or(3);
            let confidence = p[id] as f32;
            s.picked.push(Picked { id: id as u32, confidence, logprob: confidence.ln() });
        }
        Ok(())
    }

    fn finish(&self, _: &mut (), _: Step, out: &mut Results, _: &Waker) -> Result<bool> {
        out.picked.clone_from(&self.0.lock().unwrap().picked);
        Ok(true)
    }

    fn read(&self, _: &mut (), _: Step, _: Output, _: &mut Vec<f32>, _: &Waker) -> Result<bool> {
        Err(Error::Runtime("nothing is read".into()))
    }

    fn write(&self, _: &mut (), _: Input, _: &[f32]) -> Result<()> {
        Err(Error::Runtime("nothing is written".into()))
    }

    fn save(&self, _: &mut (), _: &[Move]) -> Result<Step> {
        Err(Error::Runtime("nothing is swapped".into()))
    }

    fn restore(&self, _: &mut (), _: &[Move]) -> Result<Step> {
        Err(Error::Runtime("nothing is swapped".into()))
    }

    fn host_page<'c>(&self, _: &'c mut (), _: u8, _: u32) -> &'c mut [u8] {
        &mut []
    }

    fn memory(&self) -> (u64, u64) {
        (0, 0)
    }

    fn ledger(&self, _: &()) -> Ledger {
        Ledger::default()
    }
}

fn engine() -> (Engine<TableModel>, TableModel) {
    engine_of(128)
}

fn engine_of(token_budget: u32) -> (Engine<TableModel>, TableModel) {
    let mut p = Program::new("table");
    let group = p.group(None);
    let (k_type, v_type) = (DType::F16, DType::F16);
    p.state(StateKind::Paged { group, k: 32, v: 32, k_type, v_type });
    let table = p.tensor("token_embd.weight", VOCAB, 4);
    let x = p.one("embed", Op::Embed { table, scale: 1.0, positions: None, types: None }).unwrap();
    let x = p.one("rows", Op::SelectRows { x }).unwrap();
    let head = Op::Linear { x, w: table, bias: None, act: Act::None, scale: 1.0, softcap: None };
    let logits = p.one("head", head).unwrap();
    p.output(Output::Logits, logits);
    let options = EngineOptions {
        context: 64,
        max_seqs: 2,
        token_budget,
        page_tokens: 2,
        ..EngineOptions::default()
    };
    let model = TableModel::default();
    (Engine::new(model.clone(), p, &mut no_weights, options).unwrap(), model)
}

fn request(rule: Rule) -> DiffuseRequest {
    DiffuseRequest { rule, temperature: 1.0, ..DiffuseRequest::new([], LENGTH as u32, MASK) }
}

/// What a place sees of a text of blocks of so many places, or all of it.
fn seen(text: &[u32], place: usize, block: Option<usize>) -> &[u32] {
    let end = block.map_or(text.len(), |n| (place / n + 1) * n);
    &text[..end.min(text.len())]
}

/// All texts that begin as `text` does with masks, with their probabilities, when the masks in
/// `open` are found one after the other, each next one as likely.
fn one_by_one(text: &[u32], open: &[usize], block: Option<usize>) -> Vec<(Vec<u32>, f64)> {
    if open.is_empty() {
        return vec![(text.to_vec(), 1.0)];
    }
    let mut all = vec![];
    for &place in open {
        let p = conditional(place, seen(text, place, block));
        let rest: Vec<usize> = open.iter().copied().filter(|&o| o != place).collect();
        for (id, p) in p.iter().enumerate() {
            let mut next = text.to_vec();
            next[place] = id as u32;
            let texts = one_by_one(&next, &rest, block).into_iter();
            all.extend(texts.map(|(text, q)| (text, p * q / open.len() as f64)));
        }
    }
    all
}

/// The same when every mask leaves by itself, with probability `1 - s/t` of each step.
fn together(text: &[u32], stays: &[f64]) -> Vec<(Vec<u32>, f64)> {
    let open: Vec<usize> = (0..text.len()).filter(|&i| text[i] == MASK).collect();
    let Some((&stay, later)) = stays.split_first() else { return vec![(text.to_vec(), 1.0)] };
    let mut all = vec![];
    for leaving in 0..1u32 << open.len() {
        let places: Vec<usize> =
            (0..open.len()).filter(|i| leaving >> i & 1 == 1).map(|i| open[i]).collect();
        let left = (open.len() - places.len()) as i32;
        let chance = (1.0 - stay).powi(places.len() as i32) * stay.powi(left);
        if chance == 0.0 {
            continue;
        }
        for ids in 0..4u32.pow(places.len() as u32) {
            let mut next = text.to_vec();
            let mut p = chance;
            for (i, &place) in places.iter().enumerate() {
                let id = ids >> (2 * i) & 3;
                p *= conditional(place, text)[id as usize];
                next[place] = id;
            }
            all.extend(together(&next, later).into_iter().map(|(t, q)| (t, p * q)));
        }
    }
    all
}

/// Probabilities by text, read as a number of base 4.
fn by_text(all: Vec<(Vec<u32>, f64)>) -> Vec<f64> {
    let mut expected = vec![0.0; 4usize.pow(LENGTH as u32)];
    all.iter().for_each(|(text, p)| expected[number(text)] += p);
    assert!((expected.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    expected
}

fn number(text: &[u32]) -> usize {
    text.iter().fold(0, |n, &id| 4 * n + id as usize)
}

/// `Q(a, x)`, the upper incomplete gamma function over the whole: by its series or its continued
/// fraction (Abramowitz and Stegun, 6.5.29 and 6.5.31).
fn upper_gamma(a: f64, x: f64) -> f64 {
    // ln Γ(a) for half integers, from Γ(1/2) or Γ(1) up.
    let (mut at, mut ln_gamma) =
        if a.fract() == 0.0 { (1.0, 0.0) } else { (0.5, std::f64::consts::PI.ln() / 2.0) };
    while at < a {
        ln_gamma += f64::ln(at);
        at += 1.0;
    }
    let front = (a * x.ln() - x - ln_gamma).exp();
    if x < a + 1.0 {
        let (mut term, mut sum) = (1.0 / a, 1.0 / a);
        for n in 1..1000 {
            term *= x / (a + f64::from(n));
            sum += term;
        }
        return 1.0 - front * sum;
    }
    let mut fraction = 0.0;
    for n in (1..1000).rev() {
        let n = f64::from(n);
        fraction = n * (n - a) / (x + 2.0 * n + 1.0 - a - fraction);
    }
    front / (x + 1.0 - a - fraction)
}

/// Draws a million texts, with seeds one after the other.
fn check_frequencies(request: DiffuseRequest, expected: &[f64]) {
    let (mut engine, model) = engine();
    let draws = 1_000_000u64;
    let mut counts = vec![0u64; expected.len()];
    for seed in 0..draws {
        let request = DiffuseRequest { seed, ..request.clone() };
        let d = engine.diffuse(request, &mut |_| Ok(())).unwrap();
        counts[number(d.answer())] += 1;
        model.0.lock().unwrap().runs.clear();
    }
    let cells = counts.iter().zip(expected);
    let chi: f64 =
        cells.map(|(&c, &p)| (c as f64 - p * draws as f64).powi(2) / (p * draws as f64)).sum();
    let p = upper_gamma((expected.len() - 1) as f64 / 2.0, chi / 2.0);
    println!("{:?}: chi-square {chi:.1}, p {p:.4}", request.rule);
    assert!(p > 0.001, "{:?}: p is {p}", request.rule);
}

#[test]
fn first_hitting_is_as_likely_as_by_enumeration() {
    let expected = by_text(one_by_one(&[MASK; LENGTH], &[0, 1, 2], None));
    check_frequencies(request(Rule::FirstHitting), &expected);
}

#[test]
fn subs_is_as_likely_as_by_enumeration() {
    // Times 1, 3/4, 1/2, 1/4, 0.
    let expected = by_text(together(&[MASK; LENGTH], &[3.0 / 4.0, 2.0 / 3.0, 1.0 / 2.0, 0.0]));
    check_frequencies(request(Rule::Ancestral { steps: 4, eps: 0.0 }), &expected);
}

#[test]
fn block_diffusion_is_as_likely_as_by_enumeration() {
    // Two places, then the one behind them.
    let first = one_by_one(&[MASK; LENGTH], &[0, 1], Some(2));
    let all = first.into_iter().flat_map(|(text, p)| {
        one_by_one(&text, &[2], Some(2)).into_iter().map(move |(text, q)| (text, p * q))
    });
    let expected = by_text(all.collect());
    for cache in [Cache::None, Cache::Dual] {
        let request = DiffuseRequest {
            blocks: Blocks::Causal,
            block_length: 2,
            cache,
            ..request(Rule::FirstHitting)
        };
        check_frequencies(request, &expected);
    }
}

/// Tail probabilities of chi-square: table 26.8 of Abramowitz and Stegun.
#[test]
fn tails() {
    for (freedom, x, tail) in
        [(1, 3.84146, 0.05), (2, 13.816, 0.001), (10, 9.34182, 0.5), (30, 59.703, 0.001)]
    {
        let got = upper_gamma(f64::from(freedom) / 2.0, x / 2.0);
        assert!((got / tail - 1.0).abs() < 1e-3, "{freedom}, {x}: {got}");
    }
}

/// The places that each pass runs.
fn runs(request: DiffuseRequest) -> (Vec<Vec<u32>>, Diffusion) {
    let (mut engine, model) = engine();
    let d = engine.diffuse(request, &mut |_| Ok(())).unwrap();
    let held = engine.snapshot().pages[0].used;
    assert_eq!(held, 0, "all pages are given back");
    let runs = std::mem::take(&mut model.0.lock().unwrap().runs);
    (runs, d)
}

/// Threshold 2 commits one place a pass.
fn one_a_pass(cache: Cache) -> DiffuseRequest {
    DiffuseRequest {
        block_length: 3,
        rule: Rule::Threshold(2.0),
        cache,
        ..DiffuseRequest::new([1, 2], 6, MASK)
    }
}

#[test]
fn a_pass_runs_what_its_cache_leaves_to_run() {
    let all: Vec<u32> = (0..8).collect();
    let (plain, d) = runs(one_a_pass(Cache::None));
    assert_eq!(plain, vec![all.clone(); 6]);
    assert_eq!((d.forwards(), d.answer().contains(&MASK)), (6, false));
    let (prefix, _) = runs(one_a_pass(Cache::Prefix));
    let (tail, end): (Vec<u32>, Vec<u32>) = ((2..8).collect(), (5..8).collect());
    assert_eq!(prefix, [&all, &tail, &tail, &all, &end, &end].map(Vec::clone));
    let (dual, _) = runs(one_a_pass(Cache::Dual));
    let block: Vec<u32> = (2..5).collect();
    assert_eq!(dual, [&all, &block, &block, &all, &end, &end].map(Vec::clone));
    // A shifted model needs the row before the block as well.
    let (shifted, _) = runs(DiffuseRequest { shift: true, ..one_a_pass(Cache::Dual) });
    assert_eq!(shifted[1].first(), Some(&1));
    // Anew every second pass.
    let (anew, _) = runs(DiffuseRequest { refresh: 2, ..one_a_pass(Cache::Dual) });
    assert_eq!(anew, [&all, &block, &all, &all, &end, &all].map(Vec::clone));
}

#[test]
fn causal_blocks_run_once_more_when_they_are_whole() {
    let causal = |cache| DiffuseRequest { blocks: Blocks::Causal, ..one_a_pass(cache) };
    // Blocks 0..3, 3..6, 6..8; the prompt ends within the first.
    let upto = |from, to| (from..to).collect::<Vec<u32>>();
    let (whole, a) = runs(causal(Cache::None));
    assert_eq!(whole, [upto(0, 3), upto(0, 6), upto(0, 6), upto(0, 6), upto(0, 8), upto(0, 8)]);
    let (cached, b) = runs(causal(Cache::Prefix));
    assert_eq!(cached, [upto(0, 3), upto(0, 6), upto(3, 6), upto(3, 6), upto(3, 8), upto(6, 8)]);
    assert_eq!(a.ids(), b.ids());
}

#[test]
fn guidance_runs_the_text_twice() {
    let mut request = one_a_pass(Cache::None);
    request.guidance = 1.0;
    let (all, d) = runs(request);
    assert_eq!((all.len(), d.forwards()), (12, 12));
}

#[test]
fn steps_that_commit_nothing_need_no_pass() {
    let rule = Rule::Even { steps: 12 };
    let (mut engine, _) = engine();
    let even = DiffuseRequest { rule, ..one_a_pass(Cache::None) };
    let mut d = Diffusion::new(even, 64, VOCAB).unwrap();
    let mut passes = 0;
    while let Some(pass) = d.next_pass() {
        let picked = pass.unmask.iter().map(|_| Picked { id: 1, confidence: 0.5, logprob: 0.0 });
        d.apply(&picked.collect::<Vec<_>>()).unwrap();
        passes += 1;
    }
    assert_eq!((passes, d.answer()), (6, &[1; 6][..]));
    assert!(d.apply(&[Picked::default()]).is_err());
    // A process of chance never draws masks.
    let mut d = Diffusion::new(request(Rule::FirstHitting), 64, VOCAB).unwrap();
    assert_eq!(d.next_pass().unwrap().forbidden, [MASK]);
    // A threshold does not wait for ever for a model that proposes them.
    let mut d = Diffusion::new(one_a_pass(Cache::None), 64, VOCAB).unwrap();
    for (id, forbidden) in [(MASK, 0), (1, 1), (1, 0)] {
        let pass = d.next_pass().unwrap();
        assert_eq!(pass.forbidden.len(), forbidden);
        let picked = pass.unmask.iter().map(|_| Picked { id, confidence: 0.5, logprob: 0.0 });
        d.apply(&picked.collect::<Vec<_>>()).unwrap();
    }
    // What is not whole after its steps is filled in at once, without masks.
    let request = DiffuseRequest { rule: Rule::Even { steps: 2 }, ..one_a_pass(Cache::None) };
    let mut d = Diffusion::new(request, 64, VOCAB).unwrap();
    for (id, forbidden) in [(MASK, 0), (1, 1)] {
        let pass = d.next_pass().unwrap();
        assert_eq!((pass.unmask.len(), pass.forbidden.len()), (3, forbidden));
        d.apply(&[Picked { id, confidence: 0.5, logprob: 0.0 }; 3]).unwrap();
    }
    assert_eq!(d.answer(), [1, 1, 1, MASK, MASK, MASK]);
    // A request in the queue and a text that no step holds.
    assert!(engine.submit(gristmill_engine::Request::new([1], 2)).is_err());
    let long = DiffuseRequest::new(vec![1; 100], 10, MASK);
    assert!(matches!(engine.diffuse(long, &mut |_| Ok(())), Err(Error::Usage(_))));
    let (mut engine, model) = engine_of(100);
    let guided = DiffuseRequest { guidance: 1.0, ..DiffuseRequest::new(vec![1; 60], 4, MASK) };
    assert!(matches!(engine.diffuse(guided, &mut |_| Ok(())), Err(Error::Device(_))));
    assert_eq!(model.0.lock().unwrap().steps, 0);
}

#[test]
fn a_device_that_proposes_nothing_says_so() {
    let (mut engine, model) = engine();
    model.0.lock().unwrap().blind = true;
    let said = engine.diffuse(request(Rule::FirstHitting), &mut |_| Ok(())).unwrap_err();
    assert!(matches!(&said, Error::Device(what) if what.contains("`unmask`")), "{said}");
    assert_eq!(model.0.lock().unwrap().steps, 0);
}
