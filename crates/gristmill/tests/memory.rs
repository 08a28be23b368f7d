//! The memory plan: what is chosen, what is refused, and what is said.

mod common;

use common::{code, run, stderr};
use gristmill::memory::{FLOOR, SHARE};
use gristmill::{Model, Settings};

const MIB: u64 = 1 << 20;

#[test]
fn the_default_context_fits_and_is_never_refused_for_its_length() {
    let model = Model::bundled().unwrap();
    let settings = Settings::default();
    let program = model.program(settings.kv).unwrap();
    let plan = |free: u64| model.memory_plan_in(&program, &settings, 1, Some(free));
    let roomy = plan(1 << 40).unwrap();
    assert_eq!(roomy.context, roomy.model_context);
    assert!(roomy.need.weights > 5 * MIB && roomy.need.weights < 6 * MIB, "{roomy:?}");
    // Keys and values of 16 bits: layers x kv heads x head x 2 x 2 bytes a token, in whole pages.
    let get = |key: &str| model.gguf().get::<u64>(&format!("llama.{key}")).unwrap();
    let head = get("embedding_length") / get("attention.head_count");
    let token = get("block_count") * get("attention.head_count_kv") * head * 4;
    assert_eq!(roomy.need.states, token * u64::from(roomy.context).next_multiple_of(32));

    let mut last = 0;
    for free in (1..64).map(|n| n * MIB) {
        let Ok(plan) = plan(free) else { continue };
        assert!(plan.context >= last && plan.need.total() <= free, "{plan}");
        last = plan.context;
        let fits = plan.fits.unwrap();
        if plan.context > fits {
            // Above the share only to reach the floor, or as much of it as there is.
            assert!(plan.context <= FLOOR);
        } else {
            assert!(plan.need.total() as f64 <= free as f64 * SHARE, "{plan}");
        }
        let short = plan.context < plan.model_context;
        assert_eq!(plan.warning().is_some(), short, "{plan}");
        let line = plan.to_string();
        let both = [format!("the model's {}", plan.model_context), format!("holds {fits})")];
        assert!(both.iter().all(|b| line.contains(b)), "{line}");
    }
    assert!(last == roomy.model_context);
    let e = plan(2 * MIB).unwrap_err();
    assert_eq!(e.exit_code(), 5, "{e}");
    assert!(e.to_string().contains("weights 5."), "{e}");
}

#[test]
fn a_context_that_was_asked_for_is_refused_with_the_numbers() {
    let model = Model::bundled().unwrap();
    let settings = Settings { context: 100_000, ..Settings::default() };
    let program = model.program(settings.kv).unwrap();
    let plan = |free: u64| model.memory_plan_in(&program, &settings, 1, Some(free));
    let roomy = plan(1 << 40).unwrap();
    assert_eq!((roomy.context, roomy.asked), (100_000, true));
    assert!(plan(roomy.need.total()).is_ok());
    let e = plan(roomy.need.total() - 1).unwrap_err();
    let text = e.to_string();
    assert_eq!((e.exit_code(), text.lines().count()), (5, 1));
    for part in ["100000 tokens", "weights", "cache", "workspace", "free", "--ctx-size"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(model.memory_plan_in(&program, &settings, 1, None).is_ok());
}

#[test]
fn memory_grows_linearly_with_the_context() {
    let model = Model::bundled().unwrap();
    let program = model.program(Settings::default().kv).unwrap();
    let states = |context: u32| {
        let settings = Settings { context, ..Settings::default() };
        model.memory_plan_in(&program, &settings, 1, None).unwrap().need
    };
    let (a, b) = (states(1 << 14), states(1 << 15));
    assert_eq!((2 * a.states, a.weights), (b.states, b.weights));
    assert!(b.workspace == a.workspace, "{a:?} {b:?}");
}

#[test]
fn what_the_binary_says() {
    let output = run(&["run", "-n", "1", "-p", "hi"]);
    let text = stderr(&output);
    let line = text.lines().find(|l| l.starts_with("memory: weights ")).expect("a plan");
    for part in [" + cache ", " + workspace ", " free; context ", "(the model's ", "80 % of free"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(text.lines().any(|l| l == "load: memory (it is in memory already)"), "{text}");
    // No terminal, no bar.
    assert!(!text.contains('\r') && !text.contains('\u{1b}'), "{text}");
    let output = run(&["run", "-q", "-c", "1000000000", "-p", "hi"]);
    let text = stderr(&output);
    assert_eq!(code(&output), 5, "{text}");
    assert!(text.starts_with("error: a context of 1000000000 tokens does not fit"), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn load_modes() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/bundled/stories.gguf");
    let said = |mode: &str| {
        let output = run(&["run", "-n", "4", "--temp", "0", "--load-mode", mode, file, "a fox"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let load = stderr(&output).lines().find(|l| l.starts_with("load: ")).unwrap().to_owned();
        (common::stdout(&output), load)
    };
    let [auto, mmap, read] = ["auto", "mmap", "read"].map(said);
    assert_eq!((&mmap.1[..], &read.1[..]), ("load: mmap (asked for)", "load: read (asked for)"));
    assert!(auto.1.contains(" (auto: it "), "{}", auto.1);
    assert!(auto.0 == mmap.0 && mmap.0 == read.0 && !read.0.is_empty());
    for verb in [&["inspect"][..], &["logits", "--ids", "1"], &["bench", "-p", "1", "-n", "0"]] {
        let output = run(&[verb, &["--load-mode", "read", file]].concat());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }
    assert_eq!(code(&run(&["run", "--load-mode", "teleport", "-p", "x"])), 2);
}
