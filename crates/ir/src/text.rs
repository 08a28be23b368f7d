//! A program as text and back.
//!
//! ```text
//! program llama prefix_closed
//! group 0
//! tensor @token_embd.weight [1, 512, 64]
//! state $0 paged group=0 k=32 v=32 F32 F32
//! %0 = embed(table=@token_embd.weight) # embed
//! %1 = norm(x=%0, norm=(kind=rms, weight=@blk.0.attn_norm.weight, eps=0.00001)) # blk.0.attn_norm
//! output logits %1
//! ```
//!
//! One line each; fields at their default are left out. Parsing runs the same checks as recording,
//! so what parses is a valid program.

use crate::op::{Field, Op, Ref, State, Tensor, Value};
use crate::program::{Group, Output, Program, StateKind};
use gristmill_core::{DType, Error, Result};
use std::fmt::Write;

/// Writes fields; knows the names of tensors.
pub(crate) struct Printer<'p> {
    program: &'p Program,
    out: String,
    first: bool,
}

impl Printer<'_> {
    pub(crate) fn word(&mut self, w: &str) {
        self.out.push_str(w);
    }
    pub(crate) fn open(&mut self) {
        self.out.push('(');
        self.first = true;
    }
    pub(crate) fn close(&mut self) {
        self.out.push(')');
        self.first = false;
    }
    pub(crate) fn field<F: Field>(&mut self, name: &str, f: &F) {
        if !std::mem::take(&mut self.first) {
            self.out.push_str(", ");
        }
        let _ = write!(self.out, "{name}=");
        f.print(self);
    }
}

/// Reads one line.
pub(crate) struct Parser<'t> {
    rest: &'t str,
    line: usize,
    program: &'t Program,
}

impl<'t> Parser<'t> {
    fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::Usage(format!("program text, line {}: {what}", self.line))
    }
    pub(crate) fn missing(&self, field: &str) -> Error {
        self.error(format_args!("the field `{field}` is missing before `{}`", self.rest))
    }
    pub(crate) fn unknown(&self, what: &str, word: &str) -> Error {
        self.error(format_args!("`{word}` is no {what}"))
    }
    fn skip(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }
    fn expect(&mut self, token: &str) -> Result<()> {
        if self.skip(token) {
            Ok(())
        } else {
            Err(self.error(format_args!("`{token}` expected at `{}`", self.rest)))
        }
    }
    pub(crate) fn open(&mut self) -> Result<()> {
        self.expect("(")
    }
    pub(crate) fn close(&mut self) -> Result<()> {
        self.expect(")")
    }
    /// Whether the next field is this one; if so its `name=` is taken.
    pub(crate) fn field(&mut self, name: &str) -> Result<bool> {
        let before = self.rest;
        self.skip(",");
        let after = self.rest.trim_start();
        if let Some(rest) = after.strip_prefix(name).and_then(|r| r.strip_prefix('=')) {
            self.rest = rest;
            return Ok(true);
        }
        self.rest = before;
        Ok(false)
    }
    pub(crate) fn word(&mut self) -> Result<&'t str> {
        self.rest = self.rest.trim_start();
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || "_.+-".contains(c)))
            .unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.error(format_args!("a word expected at `{}`", self.rest)));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(word)
    }
    fn number<T: std::str::FromStr>(&mut self) -> Result<T> {
        let word = self.word()?;
        word.parse().map_err(|_| self.unknown("number", word))
    }
    fn keyed<T: std::str::FromStr>(&mut self, key: &str) -> Result<T> {
        self.expect(key)?;
        self.expect("=")?;
        self.number()
    }
    fn dtype(&mut self) -> Result<DType> {
        let word = self.word()?;
        DType::from_name(word).ok_or_else(|| self.unknown("type", word))
    }
    fn list<T>(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut items = vec![];
        while !self.skip(close) {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }
}

impl Field for Value {
    fn visit(&self, f: &mut dyn FnMut(Ref)) {
        f(Ref::Value(*self));
    }
    fn print(&self, w: &mut Printer<'_>) {
        let _ = write!(w.out, "%{}", self.0);
    }
    fn parse(r: &mut Parser<'_>) -> Result<Self> {
        r.expect("%")?;
        let value = Value(r.number()?);
        if value.index() >= r.program.values.len() {
            return Err(r.error(format_args!("%{} is used before it is computed", value.0)));
        }
        Ok(value)
    }
}

impl Field for Tensor {
    fn visit(&self, f: &mut dyn FnMut(Ref)) {
        f(Ref::Tensor(*self));
    }
    fn print(&self, w: &mut Printer<'_>) {
        let _ = write!(w.out, "@{}", w.program.tensors[self.index()].name);
    }
    fn parse(r: &mut Parser<'_>) -> Result<Self> {
        r.expect("@")?;
        let name = r.word()?;
        r.program.known_tensor(name).ok_or_else(|| r.unknown("declared tensor", name))
    }
}

impl Field for State {
    fn visit(&self, f: &mut dyn FnMut(Ref)) {
        f(Ref::State(*self));
    }
    fn print(&self, w: &mut Printer<'_>) {
        let _ = write!(w.out, "${}", self.0);
    }
    fn parse(r: &mut Parser<'_>) -> Result<Self> {
        r.expect("$")?;
        let state = State(r.number()?);
        if state.index() >= r.program.states.len() {
            return Err(r.error(format_args!("state ${} is not declared", state.0)));
        }
        Ok(state)
    }
}

macro_rules! plain {
    ($($t:ty),+) => {$(
        impl Field for $t {
            fn print(&self, w: &mut Printer<'_>) {
                let _ = write!(w.out, "{self}");
            }
            fn parse(r: &mut Parser<'_>) -> Result<Self> {
                r.number()
            }
        }
    )+};
}
plain!(u32, f32, bool);

impl<F: Field> Field for Option<F> {
    fn visit(&self, f: &mut dyn FnMut(Ref)) {
        if let Some(inner) = self {
            inner.visit(f);
        }
    }
    fn print(&self, w: &mut Printer<'_>) {
        match self {
            Some(inner) => inner.print(w),
            None => w.word("none"),
        }
    }
    fn parse(r: &mut Parser<'_>) -> Result<Self> {
        Ok(if r.skip("none") { None } else { Some(F::parse(r)?) })
    }
}

impl<F: Field> Field for Vec<F> {
    fn visit(&self, f: &mut dyn FnMut(Ref)) {
        for inner in self {
            inner.visit(f);
        }
    }
    fn print(&self, w: &mut Printer<'_>) {
        for (i, inner) in self.iter().enumerate() {
            w.word(if i == 0 { "[" } else { ", " });
            inner.print(w);
        }
        w.word(if self.is_empty() { "[]" } else { "]" });
    }
    fn parse(r: &mut Parser<'_>) -> Result<Self> {
        r.expect("[")?;
        r.list("]", F::parse)
    }
}

impl Field for [u32; 3] {
    fn print(&self, w: &mut Printer<'_>) {
        self.to_vec().print(w);
    }
    fn parse(r: &mut Parser<'_>) -> Result<Self> {
        Vec::parse(r)?.try_into().map_err(|_| r.error("three numbers expected"))
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let closed = if self.prefix_closed { " prefix_closed" } else { "" };
        writeln!(f, "program {}{closed}", self.name)?;
        for (i, g) in self.groups.iter().enumerate() {
            match g.window {
                Some(w) => writeln!(f, "group {i} window={w}")?,
                None => writeln!(f, "group {i}")?,
            }
        }
        for t in &self.tensors {
            writeln!(f, "tensor @{} [{}, {}, {}]", t.name, t.experts, t.rows, t.cols)?;
        }
        for (i, s) in self.states.iter().enumerate() {
            match s {
                StateKind::Paged { group, k, v, k_type, v_type } => {
                    writeln!(f, "state ${i} paged group={group} k={k} v={v} {k_type} {v_type}")?
                }
                StateKind::Slot { elems, dtype } => {
                    writeln!(f, "state ${i} slot elems={elems} {dtype}")?
                }
            }
        }
        for n in &self.nodes {
            let mut w = Printer { program: self, out: String::new(), first: true };
            for (i, v) in n.outputs.iter().enumerate() {
                w.word(if i == 0 { "" } else { ", " });
                v.print(&mut w);
            }
            w.word(" = ");
            n.op.print(&mut w);
            writeln!(f, "{} # {}", w.out, n.name)?;
        }
        for (output, value) in &self.outputs {
            writeln!(f, "output {} %{}", output.name(), value.0)?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Program {
    type Err = Error;

    fn from_str(text: &str) -> Result<Program> {
        let mut program = Program::new("");
        for (i, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let (code, name) = line.split_once(" # ").unwrap_or((line, ""));
            // The parser looks names up in the program as it stood before this line.
            let so_far = program.clone();
            let mut r = Parser { rest: code, line: i + 1, program: &so_far };
            parse_line(&mut program, &mut r, name.trim())?;
            if !r.rest.trim().is_empty() {
                return Err(r.error(format_args!("`{}` is left over", r.rest)));
            }
        }
        program.verify()?;
        Ok(program)
    }
}

fn parse_line(program: &mut Program, r: &mut Parser<'_>, name: &str) -> Result<()> {
    if r.skip("program ") {
        program.name = r.word()?.to_owned();
        program.prefix_closed = r.skip("prefix_closed");
    } else if r.skip("group ") {
        r.number::<u32>()?;
        let window = if r.skip("window=") { Some(r.number()?) } else { None };
        program.groups.push(Group { window });
    } else if r.skip("tensor @") {
        let name = r.word()?;
        r.expect("[")?;
        let shape: [u32; 3] = r
            .list("]", Parser::number)?
            .try_into()
            .map_err(|_| r.error("a shape is [experts, rows, cols]"))?;
        program.tensor_stack(name, shape[0], shape[1], shape[2]);
    } else if r.skip("state $") {
        r.number::<u32>()?;
        let kind = if r.skip("paged") {
            StateKind::Paged {
                group: r.keyed("group")?,
                k: r.keyed("k")?,
                v: r.keyed("v")?,
                k_type: r.dtype()?,
                v_type: r.dtype()?,
            }
        } else {
            r.expect("slot")?;
            StateKind::Slot { elems: r.keyed("elems")?, dtype: r.dtype()? }
        };
        program.states.push(kind);
    } else if r.skip("output ") {
        let word = r.word()?;
        let value = Value::parse(r)?;
        let output = Output::from_name(word, value).ok_or_else(|| r.unknown("output", word))?;
        program.outputs.push((output, value));
    } else {
        let outputs = r.list("=", |r| {
            r.expect("%")?;
            r.number::<u32>()
        })?;
        let op = Op::parse(r)?;
        let got = program.push(name, op).map_err(|e| r.error(e))?;
        if !got.iter().map(|v| v.0).eq(outputs.iter().copied()) {
            return Err(r.error(format_args!("outputs {outputs:?} should be {got:?}")));
        }
    }
    Ok(())
}
