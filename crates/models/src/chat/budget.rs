//! What a rendering may handle: the engine's fuel counts instructions, and one of them can double a
//! text, so a template of a line could fill any memory.
//!
//! The unit is the byte. Everything that is made costs its size in memory, whether it is kept or not;
//! reading costs a unit a byte, some for each value and more for each list and map, as it takes time
//! to go through them. So neither what is held at one time nor the time that
//! it took grows beyond a few times the budget. Nothing is given back: like fuel, it says how much
//! work there was.
//!
//! Values are trees here: they are at most [`DEPTH`] deep, and a namespace, the one thing that can be
//! changed, is never put into another value. A tree costs what it would if nothing in it were
//! shared, each time that a list or a map is made of it.

use minijinja::value::{Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::cell::Cell;

/// Units of a rendering, unless it is told otherwise. A conversation of a million characters takes some
/// tens of millions.
pub(super) const UNITS: u64 = 512 << 20;
/// Bytes of one item of a list: a value, and its share of the room that a growing list leaves.
pub(super) const ITEM: u64 = 32;
/// Units for going to a value within another.
const VISIT: u64 = 4;
/// How deep values may be nested; all that walks through them is written with recursion.
const DEPTH: usize = 100;
/// From this length on a text costs [`ITEM`] a byte where a list of its characters may be made of it.
const LONG: usize = 1 << 20;

thread_local! {
    /// What is left of the rendering that this thread is at.
    static LEFT: Cell<u64> = const { Cell::new(UNITS) };
}

/// Begins a rendering.
pub(super) fn begin(units: u64) {
    LEFT.set(units);
}

/// Whether the budget was used up.
pub(super) fn is_spent() -> bool {
    LEFT.get() == 0
}

/// Takes from the budget.
///
/// # Errors
/// There is not that much left. What comes after fails too.
pub(super) fn charge(units: u64) -> Result<(), Error> {
    match LEFT.get().checked_sub(units) {
        Some(left) => {
            LEFT.set(left);
            Ok(())
        }
        None => {
            LEFT.set(0);
            Err(spent())
        }
    }
}

/// The error of a budget that is used up.
pub(super) fn spent() -> Error {
    let what = "it makes more text than a conversation can need: does it double one in a loop?";
    Error::new(ErrorKind::OutOfFuel, what)
}

/// How much of a value is read.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Reads {
    /// Its shape: texts within it are not looked at.
    Shape,
    /// All of it, once.
    Once,
    /// All of it, and lists of the characters of its texts may be made.
    Characters,
}

/// Charges for reading a value and all that it holds.
///
/// # Errors
/// The budget is used up, or the value is nested too deeply or holds a namespace.
pub(super) fn read(value: &Value, reads: Reads) -> Result<(), Error> {
    visit(value, reads, 0)
}

fn visit(value: &Value, reads: Reads, depth: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String => charge(match (value.as_str().unwrap_or_default().len(), reads) {
            (_, Reads::Shape) => VISIT,
            (n, Reads::Characters) if n > LONG => ITEM * n as u64,
            (n, _) => VISIT + n as u64,
        }),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            charge(ITEM)?;
            if depth > 0 && is_namespace(value) {
                return Err(wrong("a namespace inside another value is not supported"));
            }
            if depth == DEPTH {
                return Err(wrong("values are nested too deeply"));
            }
            let map = value.kind() == ValueKind::Map;
            for item in value.try_iter()? {
                visit(&item, reads, depth + 1)?;
                if map {
                    visit(&value.get_item(&item)?, reads, depth + 1)?;
                }
            }
            Ok(())
        }
        _ => charge(VISIT),
    }
}

/// Units for looking at a value without going into it: the bytes of a text, the items of a list.
pub(super) fn width(value: &Value) -> u64 {
    match value.kind() {
        ValueKind::String => value.as_str().unwrap_or_default().len() as u64,
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => value.len().unwrap_or(1) as u64,
        _ => 1,
    }
}

/// Charges for a value that was just made. What would be worked out at each walk (the items of a map, a
/// sum of lists) is worked out now, so that such things are not stacked on each other.
///
/// # Errors
/// As [`read`].
pub(super) fn made(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => charge(width(&value)).map(|()| value),
        ValueKind::Iterable => {
            let mut items = Vec::new();
            for item in value.try_iter()? {
                charge(ITEM)?;
                visit(&item, Reads::Shape, 1)?;
                items.push(item);
            }
            Ok(Value::from_object(super::python::List(items)))
        }
        ValueKind::Seq | ValueKind::Map => {
            charge(ITEM * width(&value))?;
            visit(&value, Reads::Shape, 0)?;
            Ok(value)
        }
        _ => Ok(value),
    }
}

/// Whether a value is what `namespace()` makes.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// An operation that the template may not do.
pub(super) fn wrong(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// Arguments of any number, names included.
pub(super) type Arguments = Rest<minijinja::value::ValueOrKwargs>;
