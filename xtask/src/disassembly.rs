//! What objdump prints of x86-64 code, and the calls that stand inside loops of it.
//!
//! A loop is a cycle of the control flow graph, not a range of addresses: compilers put rare
//! blocks behind the end of a function, and a rare block that jumps back would otherwise make a
//! loop of everything between. A call that does not return (a panic) ends its path, so a bounds
//! check inside a loop is no call inside a loop.

use std::collections::{HashMap, HashSet};

/// A function as disassembled.
pub struct Function {
    /// Demangled.
    pub name: String,
    /// In the order of their addresses.
    pub instructions: Vec<Instruction>,
}

/// An instruction: where it is and what may run after it.
#[derive(Debug, PartialEq)]
pub struct Instruction {
    /// Virtual address.
    pub address: u64,
    /// Where it goes.
    pub flow: Flow,
    /// The register it loads from a pointer at a fixed address, and that address.
    pub load: Option<(String, u64)>,
}

/// What runs after an instruction.
#[derive(Debug, PartialEq)]
pub enum Flow {
    /// The next one.
    Next,
    /// The next one, or the one at this address.
    Branch(u64),
    /// The one at this address.
    Jump(u64),
    /// One that only the machine knows: a jump table.
    JumpAnywhere,
    /// A function, then the next one.
    Call(Callee),
    /// None: a return, a trap, a jump through a pointer to another function.
    Stop,
    /// The next one; it does nothing but fill space.
    Padding,
}

/// Who is called.
#[derive(Debug, PartialEq)]
pub enum Callee {
    /// A function by its demangled name.
    Named(String),
    /// Whatever the pointer at this address holds.
    Slot(u64),
    /// Whatever this register holds.
    Register(String),
    /// Whatever a computed place in memory holds.
    Unknown,
}

/// Splits lines of `objdump -d -C --no-show-raw-insn` into functions.
pub fn functions(lines: impl Iterator<Item = String>, mut each: impl FnMut(Function)) {
    let mut current: Option<Function> = None;
    for line in lines {
        if let Some(name) = heading(&line) {
            current.take().into_iter().for_each(&mut each);
            current = Some(Function { name: name.to_owned(), instructions: Vec::new() });
        } else if let (Some(f), Some(i)) = (&mut current, instruction(&line)) {
            f.instructions.push(i);
        }
    }
    current.into_iter().for_each(each);
}

/// `0000000000015f50 <name>:`
fn heading(line: &str) -> Option<&str> {
    let (address, rest) = line.split_once(" <")?;
    hex(address)?;
    rest.strip_suffix(">:")
}

/// `   15f65:<tab>je     15fd3 <name+0x83>`
fn instruction(line: &str) -> Option<Instruction> {
    let (address, code) = line.split_once(":\t")?;
    let address = hex(address.trim())?;
    let mut code = code.trim();
    let prefixes = ["bnd ", "notrack ", "rep ", "repz ", "repnz ", "lock ", "data16 ", "cs "];
    while let Some(rest) = prefixes.iter().find_map(|p| code.strip_prefix(p)) {
        code = rest.trim_start();
    }
    let (mnemonic, operands) = code.split_once(char::is_whitespace).unwrap_or((code, ""));
    let operands = operands.trim();
    let target = operands.split_whitespace().next().and_then(hex);
    let flow = match mnemonic {
        "call" | "callq" => Flow::Call(match (slot(operands), operands.split_once('<')) {
            (Some(slot), _) => Callee::Slot(slot),
            (None, Some((_, name))) if target.is_some() => {
                Callee::Named(name.strip_suffix('>').unwrap_or(name).to_owned())
            }
            _ => operands
                .strip_prefix("*%")
                .map_or(Callee::Unknown, |r| Callee::Register(r.to_owned())),
        }),
        "jmp" | "jmpq" => match (target, slot(operands)) {
            (Some(target), _) => Flow::Jump(target),
            (None, Some(_)) => Flow::Stop,
            (None, None) => Flow::JumpAnywhere,
        },
        "ret" | "retq" | "ud2" | "hlt" | "int3" => Flow::Stop,
        "nop" | "nopw" | "nopl" => Flow::Padding,
        "xchg" if operands == "%ax,%ax" => Flow::Padding,
        _ if mnemonic.starts_with('j') || mnemonic.starts_with("loop") => {
            target.map_or(Flow::Next, Flow::Branch)
        }
        _ => Flow::Next,
    };
    let load = (mnemonic == "mov")
        .then(|| {
            let (_, to) = operands.split_once("(%rip),%")?;
            Some((to.split_whitespace().next()?.to_owned(), relative(operands)?))
        })
        .flatten();
    Some(Instruction { address, flow, load })
}

/// The address of the pointer in `*0x459ef(%rip)        # 5b9e8 <...>`.
fn slot(operands: &str) -> Option<u64> {
    operands.strip_prefix('*').and_then(relative)
}

/// The address of `0x459ef(%rip)`, which objdump works out in a comment.
fn relative(operands: &str) -> Option<u64> {
    let (_, comment) = operands.split_once("(%rip)")?.1.split_once("# ")?;
    hex(comment.split_whitespace().next()?)
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// A call inside a loop.
#[derive(Debug, PartialEq)]
pub struct LoopCall {
    /// Of the call instruction.
    pub address: u64,
    /// The function called.
    pub callee: String,
}

/// The calls inside loops of a function. `slots` says which function a pointer in memory holds.
pub fn calls_in_loops(f: &Function, slots: &HashMap<u64, String>) -> Vec<LoopCall> {
    let held = pointers_in_registers(f, slots);
    let callees: Vec<Option<String>> = f
        .instructions
        .iter()
        .map(|i| match &i.flow {
            Flow::Call(Callee::Named(name)) => Some(name.clone()),
            Flow::Call(Callee::Slot(at)) => {
                Some(slots.get(at).cloned().unwrap_or_else(|| format!("the pointer at {at:x}")))
            }
            Flow::Call(Callee::Register(r)) if held.contains_key(r.as_str()) => {
                Some(held[r.as_str()].join("` or `"))
            }
            Flow::Call(_) => Some("a function pointer".to_owned()),
            _ => None,
        })
        .collect();
    let cycle = on_cycles(&edges(f, &callees));
    callees
        .into_iter()
        .enumerate()
        .filter(|(i, _)| cycle[*i])
        .filter_map(|(i, callee)| {
            Some(LoopCall { address: f.instructions[i].address, callee: callee? })
        })
        .collect()
}

/// The functions whose addresses each register is loaded with anywhere in `f`: a call in a loop
/// often goes through a register that was loaded before the loop.
fn pointers_in_registers<'a>(
    f: &'a Function,
    slots: &'a HashMap<u64, String>,
) -> HashMap<&'a str, Vec<&'a str>> {
    let mut held: HashMap<&str, Vec<&str>> = HashMap::new();
    for (register, slot) in f.instructions.iter().filter_map(|i| i.load.as_ref()) {
        if let Some(name) = slots.get(slot) {
            let names = held.entry(register).or_default();
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    held
}

/// Which instructions may run after each.
fn edges(f: &Function, callees: &[Option<String>]) -> Vec<Vec<usize>> {
    let code = &f.instructions;
    let index: HashMap<u64, usize> = code.iter().enumerate().map(|(i, x)| (x.address, i)).collect();
    let falls_through = |i: usize| match &code[i].flow {
        Flow::Next | Flow::Branch(_) | Flow::Padding => true,
        Flow::Call(_) => !callees[i].as_ref().is_some_and(|name| never_returns(name)),
        Flow::Jump(_) | Flow::JumpAnywhere | Flow::Stop => false,
    };
    let target = |i: usize| match code[i].flow {
        Flow::Branch(to) | Flow::Jump(to) => index.get(&to).copied(),
        _ => None,
    };
    // A jump table may lead to any block that nothing else leads to.
    let targets: HashSet<usize> = (0..code.len()).filter_map(target).collect();
    let mut orphans = Vec::new();
    let mut reached = true;
    for (i, x) in code.iter().enumerate() {
        reached |= targets.contains(&i);
        if !reached && x.flow != Flow::Padding {
            orphans.push(i);
            reached = true;
        }
        reached &= falls_through(i);
    }
    (0..code.len())
        .map(|i| {
            let next = (falls_through(i) && i + 1 < code.len()).then_some(i + 1);
            let mut to: Vec<usize> = next.into_iter().chain(target(i)).collect();
            if code[i].flow == Flow::JumpAnywhere {
                to.extend(&orphans);
            }
            to
        })
        .collect()
}

/// Functions that panic, abort or unwind.
fn never_returns(name: &str) -> bool {
    let name = name.split('@').next().unwrap_or(name);
    let parts = ["panic", "::fail", "handle_alloc_error", "capacity_overflow", "rust_oom"];
    let ends = ["_fail", "_failed", "raw_vec::handle_error", "abort", "_Unwind_Resume", "::exit"];
    parts.iter().any(|p| name.contains(p)) || ends.iter().any(|e| name.ends_with(e))
}

/// Which nodes of a graph lie on a cycle: those in a strongly connected component of more than
/// one node, or with an edge to themselves (Kosaraju's two passes).
fn on_cycles(edges: &[Vec<usize>]) -> Vec<bool> {
    let n = edges.len();
    let mut finished = Vec::with_capacity(n);
    let mut seen = vec![false; n];
    for start in 0..n {
        let mut path = vec![(start, 0)];
        if std::mem::replace(&mut seen[start], true) {
            continue;
        }
        while let Some((node, edge)) = path.last_mut() {
            match edges[*node].get(*edge) {
                Some(&to) => {
                    *edge += 1;
                    if !std::mem::replace(&mut seen[to], true) {
                        path.push((to, 0));
                    }
                }
                None => {
                    finished.push(*node);
                    path.pop();
                }
            }
        }
    }

    let mut back = vec![Vec::new(); n];
    for (from, to) in edges.iter().enumerate().flat_map(|(i, e)| e.iter().map(move |&t| (i, t))) {
        back[to].push(from);
    }
    let mut cyclic: Vec<bool> = (0..n).map(|i| edges[i].contains(&i)).collect();
    let mut placed = vec![false; n];
    for &start in finished.iter().rev() {
        if placed[start] {
            continue;
        }
        placed[start] = true;
        let mut component = vec![start];
        let mut next = 0;
        while next < component.len() {
            for &from in &back[component[next]] {
                if !std::mem::replace(&mut placed[from], true) {
                    component.push(from);
                }
            }
            next += 1;
        }
        if component.len() > 1 {
            component.into_iter().for_each(|i| cyclic[i] = true);
        }
    }
    cyclic
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(u64, String)> {
        let slots = HashMap::from([
            (0x5b9e8, "core::panicking::panic_bounds_check".to_owned()),
            (0x5b9f8, "expf@GLIBC_2.2.5".to_owned()),
        ]);
        let mut calls = Vec::new();
        functions(text.lines().map(str::to_owned), |f| {
            calls.extend(calls_in_loops(&f, &slots).into_iter().map(|c| (c.address, c.callee)));
        });
        calls
    }

    #[test]
    fn a_helper_called_in_a_loop() {
        let text = "
p:     file format elf64-x86-64

Disassembly of section .text:

0000000000015f50 <p::kernels::go>:
   15f50:\tpush   %rbp
   15f65:\tje     15fd3 <p::kernels::go+0x83>
   15f8e:\txchg   %ax,%ax
   15f90:\tmov    (%rax,%rbx,1),%r15
   15fa4:\tjae    15fe6 <p::kernels::go+0x96>
   15fad:\tcall   160b0 <p::kernels::helper>
   15fcc:\tcmp    %rbx,%r12
   15fcf:\tjne    15f90 <p::kernels::go+0x40>
   15fd1:\tcall   16100 <p::kernels::after_the_loop>
   15fd3:\tpop    %rbx
   15fe5:\tret
   15fe6:\tlea    0x43613(%rip),%rdx        # 59600 <__frame_dummy_init_array_entry+0x20>
   15ff3:\tcall   *0x459ef(%rip)        # 5b9e8 <_DYNAMIC+0x2b0>
   15ff9:\tint3

0000000000016010 <p::kernels::clean>:
   16010:\tvxorps %xmm0,%xmm0,%xmm0
   16020:\tcmp    %rsi,%rax
   16023:\tjae    16034 <p::kernels::clean+0x24>
   1602e:\tdec    %rcx
   16031:\tjne    16020 <p::kernels::clean+0x10>
   16033:\tret
   16034:\tcall   *0x459a3(%rip)        # 5b9e8 <_DYNAMIC+0x2b0>
   1603a:\tint3
";
        assert_eq!(found(text), [(0x15fad, "p::kernels::helper".to_owned())]);
    }

    #[test]
    fn rare_blocks_behind_the_end() {
        // The block at 40 belongs to the loop and calls; the epilogue's call at 20 does not,
        // although it lies between the loop's first and last address.
        let text = "
0000000000000000 <f>:
   0:\tmov    %rdi,%rax
   8:\ttest   %rax,%rax
   c:\tjne    40 <f+0x40>
  10:\tdec    %rax
  14:\tjne    8 <f+0x8>
  20:\tcall   100 <dealloc>
  28:\tret
  2c:\tnop
  40:\tcall   *0x459ef(%rip)        # 5b9f8 <_DYNAMIC+0x2b0>
  48:\tjmp    10 <f+0x10>
";
        assert_eq!(found(text), [(0x40, "expf@GLIBC_2.2.5".to_owned())]);
    }

    #[test]
    fn panics_do_not_run_into_the_next_block() {
        // Without knowing that the call at 20 panics, it would seem to run on into 28 and back.
        let text = "
0000000000000000 <f>:
   0:\tcmp    %rdi,%rax
   4:\tjae    20 <f+0x20>
   8:\tje     28 <f+0x28>
   c:\tdec    %rax
  10:\tjne    0 <f>
  18:\tret
  20:\tcall   *0x10(%rip)        # 5b9e8 <_DYNAMIC>
  28:\tinc    %rax
  2c:\tjmp    c <f+0xc>
";
        assert_eq!(found(text), []);
    }

    #[test]
    fn jump_tables_and_pointers() {
        let text = "
0000000000000000 <f>:
   0:\tmov    (%rdi),%rax
   4:\tnotrack jmp *%rax
   8:\tcall   *%rcx
   c:\tjmp    18 <f+0x18>
  10:\tnop
  14:\tcall   *%rbx
  16:\tjmp    18 <f+0x18>
  18:\tdec    %rdx
  1c:\tjne    0 <f>
  20:\tjmp    *0x45936(%rip)        # 5b9f8 <expf@GLIBC_2.2.5>
  28:\tint3
";
        let pointer = || "a function pointer".to_owned();
        assert_eq!(found(text), [(0x8, pointer()), (0x14, pointer())]);
    }

    #[test]
    fn pointers_loaded_before_the_loop() {
        let text = "
0000000000000000 <f>:
   0:\tmov    0x45936(%rip),%r12        # 5b9f8 <_DYNAMIC+0x2c0>
   8:\tcall   *%r12
   c:\tdec    %rdx
  10:\tjne    8 <f+0x8>
  14:\tret
";
        assert_eq!(found(text), [(0x8, "expf@GLIBC_2.2.5".to_owned())]);
    }

    #[test]
    fn one_instruction_can_be_a_loop_and_calls_have_long_names() {
        assert_eq!(
            instruction("   1:\tcall   f0 <<a::B<u8> as c::D>::go>").map(|i| i.flow),
            Some(Flow::Call(Callee::Named("<a::B<u8> as c::D>::go".to_owned())))
        );
        assert_eq!(instruction("  4:\tlea    0x1(%rax),%rbx").map(|i| i.flow), Some(Flow::Next));
        assert_eq!(on_cycles(&[vec![0, 1], vec![2], vec![1], vec![]]), [true, true, true, false]);
    }
}
