//! `gristmill tune`: shapes of kernels that suit a GPU, found by trying them, kept for later runs.

use crate::term::{Done, catch_interrupts, check_interrupt, out};
use clap::Args;
use gristmill::cache;
use gristmill::wgpu::{self, Adapter, Shapes, Tried};
use gristmill::{Result, Wgpu, WgpuOptions};
use std::io::{IsTerminal, Write};

#[derive(Args)]
#[command(after_help = "Example: gristmill tune --adapter 0

What is found is kept in the cache directory by adapter and driver, and used by every later run on \
                        that adapter. Without it kernels have shapes that are good anywhere.")]
pub struct TuneArgs {
    /// Which adapter, by its number in `gristmill devices` (default: the first that is a GPU)
    #[arg(long, value_name = "I")]
    adapter: Option<u32>,

    /// Nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
}

/// Two of the numbers of some shapes.
type Sizes = fn(&Shapes) -> [u32; 2];

/// The file of shapes.
const FILE: &str = "shapes.json";

fn key(adapter: &Adapter) -> String {
    let f = adapter.facts();
    format!("{} {} {}, {}", f.name, f.api, f.driver, env!("CARGO_PKG_VERSION"))
}

/// The shapes that were found for an adapter.
pub fn known(adapter: &Adapter) -> Option<Shapes> {
    cache::get(FILE, &key(adapter))?.as_str()?.parse().ok()
}

pub fn run(args: TuneArgs) -> Done {
    let adapter = wgpu::choose(args.adapter)?;
    catch_interrupts();
    let bar = !args.quiet && std::io::stderr().is_terminal();
    let mut progress = |done: usize, all: usize| -> Result<()> {
        if bar {
            // Nothing is lost where stderr is gone.
            let _ = write!(std::io::stderr(), "\rtrying shapes of kernels: {done} of {all}");
            if done == all {
                let _ = writeln!(std::io::stderr());
            }
        }
        check_interrupt()
    };
    // That it opens is known before the time is spent.
    Wgpu::new(&adapter, WgpuOptions::default())?;
    let (best, tried) = wgpu::tune(&adapter, &mut progress)?;
    cache::put(FILE, &key(&adapter), best.to_string().into());
    let mut text = format!("{}\n", adapter.name());
    let kinds: [(&str, Sizes); 3] = [
        ("one row of activations: rows by threads", |s| [s.rows, s.threads]),
        ("many: outputs by rows of a tile", |s| [s.tile_rows, s.tile_tokens]),
        ("many in f16, on units that multiply matrices (0 x 0: without them)", |s| s.units),
    ];
    for ((what, of), tried) in kinds.iter().zip(&tried).filter(|k| !k.1.is_empty()) {
        let line = |t: &Tried| {
            let [a, b] = of(&t.0);
            let mark =
                if of(&t.0) == of(&Shapes::default()) && !t.0.written { "  (untuned)" } else { "" };
            let way = if t.0.written { "  written for Metal" } else { "" };
            format!("  {a:3} x {b:3}  {:9.3} ms{way}{mark}\n", 1e3 * t.1)
        };
        text.push_str(&format!("{what}\n"));
        text.extend(tried.iter().map(line));
    }
    out(&text)
}
