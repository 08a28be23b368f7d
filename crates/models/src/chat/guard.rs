//! Puts the budget ([`budget`]) into a compiled template.
//!
//! The engine has no hook between its instructions, but it shows them. So each instruction that makes
//! or walks through values gets calls of our functions around it: before it, one that is given the
//! operands, charges for them and hands them back; after it, one that charges for what was made.
//! Filters, tests and methods are called by our functions. The functions' names hold a space, so that
//! no template can name them.

use super::budget::{self, Arguments, ITEM, Reads, charge, made, read, width, wrong};
use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

const ADD: &str = "charge add";
const REPEAT: &str = "charge repeat";
const JOIN: &str = "charge join";
const COMPARE: &str = "charge compare";
const ITEM_OF: &str = "charge item";
const SLICE: &str = "charge slice";
const SET: &str = "charge set";
const MADE: &str = "charge made";
const FILTER: &str = "charge filter";
const TEST: &str = "charge test";
const METHOD: &str = "charge method";

/// Makes the functions known.
pub(super) fn add_to(env: &mut Environment<'_>) {
    operands(env, ADD, |v| charge(1 + width(&v[0])).and_then(|()| charge(width(&v[1]))));
    operands(env, REPEAT, |v| {
        let times = |n: &Value| n.as_usize().unwrap_or(1).max(1) as u64;
        let list = |v: &Value| if v.kind() == ValueKind::String { 1 } else { ITEM };
        charge(width(&v[0]).saturating_mul(times(&v[1])).saturating_mul(list(&v[0])))?;
        charge(width(&v[1]).saturating_mul(times(&v[0])).saturating_mul(list(&v[1])))
    });
    operands(env, JOIN, |v| v.iter().try_for_each(|v| read(v, Reads::Once)));
    operands(env, COMPARE, |v| v.iter().try_for_each(|v| read(v, Reads::Once)));
    operands(env, ITEM_OF, |v| charge(if v[0].as_str().is_some() { width(&v[0]) } else { 1 }));
    operands(env, SLICE, |v| charge(1 + width(&v[0])));
    operands(env, SET, |v| match budget::is_namespace(&v[0]) {
        true => Err(wrong("a namespace inside another value is not supported")),
        false => Ok(()),
    });
    env.add_function(MADE, |value: Value| made(value));
    env.add_function(FILTER, |state: &mut State<'_, '_>, args: Arguments| {
        let (name, args) = named(args)?;
        filter(state, &name, &args)
    });
    env.add_function(TEST, |state: &mut State<'_, '_>, args: Arguments| {
        let (name, args) = named(args)?;
        args.iter().try_for_each(|v| match LIGHT_TESTS.contains(&&*name) {
            true => charge(1),
            false => read(v, Reads::Once),
        })?;
        state.perform_test(&name, &args).map_err(|e| unknown(e, "test", &name))
    });
    env.add_function(METHOD, |state: &mut State<'_, '_>, args: Arguments| {
        let (name, args) = named(args)?;
        method(state, &name, &args)
    });
}

/// A function that charges for operands and gives them back, the last first, as `UnpackList` wants them.
fn operands(
    env: &mut Environment<'_>,
    name: &'static str,
    cost: impl Fn(&[Value]) -> Result<(), Error> + Send + Sync + 'static,
) {
    env.add_function(name, move |args: Arguments| {
        let mut values = args.into_values();
        cost(&values)?;
        values.reverse();
        Ok(Value::from(values))
    });
}

/// The name, which comes last, and the arguments.
fn named(args: Arguments) -> Result<(String, Vec<Value>), Error> {
    let mut args = args.into_values();
    let name = args.pop().unwrap_or_default();
    // As the engine reads them: `not in` is one name.
    let name = name.as_str().unwrap_or_default().split_ascii_whitespace().collect();
    Ok((name, args))
}

fn unknown(e: Error, kind: &str, name: &str) -> Error {
    match e.kind() {
        k @ (ErrorKind::UnknownFilter | ErrorKind::UnknownTest) if e.detail().is_none() => {
            Error::new(k, format!("{kind} {name} is unknown"))
        }
        _ => e,
    }
}

/// Tests that look at a value's kind only.
const LIGHT_TESTS: &[&str] = &[
    "boolean",
    "defined",
    "divisibleby",
    "even",
    "false",
    "float",
    "int",
    "integer",
    "iterable",
    "mapping",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "true",
    "undefined",
];

/// Arguments of a filter; each may name a further filter, for `map`.
const MOST: usize = 100;

/// Filters that look at the items of a value, but not into them.
const LIGHT_FILTERS: &[&str] = &[
    super::source::ITERABLE,
    super::source::SAME,
    "attr",
    "batch",
    "count",
    "d",
    "default",
    "first",
    "items",
    "last",
    "length",
    "list",
    "map",
    "reject",
    "rejectattr",
    "reverse",
    "select",
    "selectattr",
    "slice",
];

fn filter(state: &mut State<'_, '_>, name: &str, args: &[Value]) -> Result<Value, Error> {
    if args.len() > MOST {
        return Err(wrong("too many arguments"));
    }
    let n = args.first().map_or(0, width);
    for (i, value) in args.iter().enumerate() {
        match value.kind() {
            ValueKind::String => read(value, Reads::Characters)?,
            _ if i == 0 && LIGHT_FILTERS.contains(&name) => charge(1 + n)?,
            _ => read(value, Reads::Characters)?,
        }
    }
    match name {
        "replace" => replaced(args)?,
        "join" => joined(n, given(args, 1, "d").as_ref())?,
        "indent" => {
            let width = given(args, 1, "width").and_then(|v| v.as_usize()).unwrap_or(4) as u64;
            charge(width.saturating_mul(lines(args).saturating_add(1)))?;
        }
        "batch" | "slice" => {
            let count = given(args, 1, "linecount").or_else(|| given(args, 1, "slices"));
            let count = count.and_then(|v| v.as_usize()).unwrap_or(0) as u64;
            charge(count.saturating_mul(ITEM))?;
        }
        "format" => formatted(args)?,
        // Sums of anything but numbers are made anew with each item.
        "sum" if given(args, 2, "start").is_some_and(|v| v.kind() != ValueKind::Number) => {
            (0..n).try_for_each(|_| read(&args[0], Reads::Once))?;
        }
        "pprint" => (0..100).try_for_each(|_| read(&args[0], Reads::Once))?,
        "select" | "reject" | "selectattr" | "rejectattr" => {
            (0..n).try_for_each(|_| args[1..].iter().try_for_each(|v| read(v, Reads::Once)))?;
        }
        // The engine would call the other filter past us.
        "map" if args.get(1).is_some_and(|v| v.as_str().is_some()) => {
            return mapped(state, args);
        }
        _ => {}
    }
    made(state.apply_filter(name, args).map_err(|e| unknown(e, "filter", name))?)
}

/// `values|map('name', arguments)`.
fn mapped(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let name = args[1].as_str().unwrap_or_default();
    let mut out = Vec::new();
    for item in args[0].try_iter()? {
        let args: Vec<Value> = [item].into_iter().chain(args[2..].iter().cloned()).collect();
        out.push(filter(state, name, &args)?);
    }
    made(Value::from(out))
}

fn method(state: &mut State<'_, '_>, name: &str, args: &[Value]) -> Result<Value, Error> {
    let object = &args[0];
    let light =
        object.kind() == ValueKind::Map && matches!(name, "get" | "keys" | "items" | "values");
    for (i, value) in args.iter().enumerate() {
        if i == 0 && light {
            charge(if name == "get" { 1 } else { 1 + width(value) })?;
        } else {
            read(value, Reads::Characters)?;
        }
    }
    match name {
        "replace" => replaced(args)?,
        "join" => joined(args.get(1).map_or(0, width), Some(object))?,
        "format" => formatted(args)?,
        _ => {}
    }
    made(object.call_method(state, name, &args[1..])?)
}

/// An argument by its place or its name.
fn given(args: &[Value], at: usize, name: &str) -> Option<Value> {
    let names = |v: &Value| Kwargs::try_from(v.clone()).ok().filter(|_| v.is_kwargs());
    match args.get(at) {
        Some(v) if !v.is_kwargs() => Some(v.clone()),
        _ => names(args.last()?)?.peek::<Value>(name).ok().filter(|v| !v.is_undefined()),
    }
}

/// Charges for `text.replace(old, new)`.
fn replaced(args: &[Value]) -> Result<(), Error> {
    let [text, old, new, ..] = args else { return Ok(()) };
    let (text, old) = (text.to_string(), old.to_string());
    charge((text.matches(&old).count() as u64).saturating_mul(new.to_string().len() as u64))
}

/// Charges for what stands between `n` items.
fn joined(n: u64, mark: Option<&Value>) -> Result<(), Error> {
    charge(n.saturating_mul(mark.map_or(0, |v| v.to_string().len() as u64)))
}

fn lines(args: &[Value]) -> u64 {
    args.first().map_or(0, |v| v.to_string().matches('\n').count() as u64 + 1)
}

/// Charges for a text with fields: each may hold all arguments, and be as wide as any number says that
/// the text or, where it has a `*`, an argument gives.
fn formatted(args: &[Value]) -> Result<(), Error> {
    let Some(text) = args.first().and_then(Value::as_str) else { return Ok(()) };
    let fields = text.matches(['%', '{']).count() as u64;
    (0..fields).try_for_each(|_| args[1..].iter().try_for_each(|v| read(v, Reads::Once)))?;
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
    let widths = numbers.map(|n| n.parse().unwrap_or(u64::MAX));
    let stars = text.contains('*') || text.matches('{').count() > text.matches('}').count();
    let given = args[1..].iter().filter(|_| stars).map(|v| v.as_usize().unwrap_or(0) as u64);
    // A field holds up to four bytes for a place: the character that fills it up may be any.
    widths.chain(given).try_for_each(|n| charge(n.saturating_mul(4)))
}

/// The same program, within the budget.
///
/// # Errors
/// The line and what is not supported.
pub(super) fn guarded<'s>(old: &Instructions<'s>) -> Result<Instructions<'s>, String> {
    let mut new = Instructions::new(old.name(), old.source());
    let mut places = Vec::new(); // of the old instructions
    let mut end = 0;
    for at in 0.. {
        let Some(instruction) = old.get(at) else { break };
        places.push(end);
        let line = old.get_line(at).unwrap_or(0);
        let steps = around(instruction).map_err(|what| format!("line {line}: {what}"))?;
        for step in steps {
            end = 1 + match old.get_span(at) {
                Some(span) => new.add_with_span(step, span),
                None => new.add_with_line(step, line as u16),
            };
        }
    }
    places.push(end);
    for at in 0..end {
        use Instruction::{
            BuildMacro, Iterate, Jump, JumpIfFalse, JumpIfFalseOrPop, JumpIfTrueOrPop,
        };
        if let Some(
            Iterate(to)
            | Jump(to)
            | JumpIfFalse(to)
            | JumpIfFalseOrPop(to)
            | JumpIfTrueOrPop(to)
            | BuildMacro(_, to, _),
        ) = new.get_mut(at)
        {
            *to = places[*to as usize];
        }
    }
    Ok(new)
}

/// An instruction with what belongs before and after it.
fn around<'s>(instruction: &Instruction<'s>) -> Result<Vec<Instruction<'s>>, String> {
    use Instruction as I;
    let call = |name, n: usize| I::CallFunction(name, Some(n as u16));
    let it = || instruction.clone();
    let binary = |name| vec![call(name, 2), I::UnpackList(2), it()];
    let by_name = |function, name: &'s str, n: u16| {
        vec![I::LoadConst(Value::from(name)), call(function, usize::from(n) + 1)]
    };
    let with = |mut before: Vec<I<'s>>| {
        before.push(call(MADE, 1));
        before
    };
    Ok(match instruction {
        // Through our formatter, which charges.
        I::EmitRaw(text) => vec![I::LoadConst(Value::from(*text)), I::Emit],
        I::Add => with(binary(ADD)),
        I::Mul => with(binary(REPEAT)),
        I::StringConcat => with(binary(JOIN)),
        I::Eq | I::Ne | I::Gt | I::Gte | I::Lt | I::Lte | I::In | I::CompareAndPreserve(_) => {
            binary(COMPARE)
        }
        I::GetItem => binary(ITEM_OF),
        I::SetAttr(_) => binary(SET),
        I::Slice => with(vec![call(SLICE, 4), I::UnpackList(4), it()]),
        I::BuildList(_) | I::BuildTuple(_) | I::BuildMap(_) => with(vec![it()]),
        I::ApplyFilter(name, Some(n), _) => by_name(FILTER, name, *n),
        I::PerformTest(name, Some(n), _) => by_name(TEST, name, *n),
        I::CallMethod(name, Some(n)) => by_name(METHOD, name, *n),
        I::CallFunction(_, Some(_)) | I::CallObject(Some(_)) => with(vec![it()]),
        I::UnpackLists(_) | I::MergeKwargs(_) => {
            return Err("arguments out of a list or a map (*, **) are not supported".into());
        }
        _ => vec![it()],
    })
}
