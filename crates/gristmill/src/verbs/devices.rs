//! `gristmill devices`: what this machine has, and which device is chosen.

use crate::device::{self, Entry, Wanted};
use crate::term::{Done, json, out, size};
use clap::Args;
use gristmill::cpu::detect;
use gristmill::{Isa, Result};
use serde_json::json;

#[derive(Args)]
#[command(after_help = "Example: gristmill devices --json")]
pub struct DevicesArgs {
    /// The device: auto, cpu, cuda or wgpu
    #[arg(long, default_value = "auto", value_parser = device::parse)]
    device: Wanted,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--list-devices` of other verbs shows.
pub fn show(device: Wanted) -> Done {
    run(DevicesArgs { device, json: false })
}

pub fn run(args: DevicesArgs) -> Done {
    let devices = device::list()?;
    let mut why = device::choose(args.device);
    if let (Wanted::Auto, Ok((_, why))) = (args.device, &mut why)
        && !devices.iter().any(|d| d.candidate)
    {
        *why = "there is no GPU that is taken without being named";
    }
    if args.json {
        let list: Vec<_> = devices.iter().map(entry_json).collect();
        let chosen = why.as_ref().ok().map(|c| &c.0);
        json(&json!({ "chosen": chosen, "devices": list, "cpu": cpu_json() }))?;
    } else {
        out(&text(&devices, &why))?;
    }
    // Shown all the same: whoever asks for a device that is not there wants to see which are.
    why?;
    Ok(())
}

fn entry_json(e: &Entry) -> serde_json::Value {
    json!({
        "id": e.id,
        "name": e.name,
        "kind": e.kind,
        "usable": e.usable,
        "reason": e.reason,
        "offers": e.offers,
        "memory": e.memory,
    })
}

/// What the processor can do, and what of it is used.
fn cpu_json() -> serde_json::Value {
    let sets: Vec<&str> = Isa::available().map(Isa::name).collect();
    let states: serde_json::Map<_, _> =
        detect::flags().iter().map(|f| (f.name.to_owned(), f.state().into())).collect();
    json!({ "instruction_sets": sets, "flags": states })
}

fn text(devices: &[Entry], why: &Result<(String, &'static str)>) -> String {
    let mut out = String::new();
    for e in devices {
        let chosen = why.as_ref().is_ok_and(|c| e.id == c.0);
        let mark = if e.usable && chosen { '*' } else { ' ' };
        let memory = e.memory.map(|m| format!(", {}", size(m))).unwrap_or_default();
        out.push_str(&format!("{mark} {:6} {}{memory}: {}\n", e.id, e.name, e.reason));
        if !e.offers.is_empty() {
            out.push_str(&format!("         {}\n", e.offers));
        }
    }
    if let Ok((id, why)) = why {
        out.push_str(&format!("\nchosen: {id}: {why}\n"));
    }
    let runs: Vec<&str> = Isa::available().map(Isa::name).collect();
    out.push_str(&format!("\nGRISTMILL_CPU may be: {}\n", runs.join(", ")));
    let flags = detect::flags();
    for state in ["used", "present, not used", "absent"] {
        let names: Vec<&str> =
            flags.iter().filter(|f| f.state() == state).map(|f| f.name).collect();
        if !names.is_empty() {
            out.push_str(&format!("{state}: {}\n", names.join(" ")));
        }
    }
    out
}
