//! Metadata values, as views of the file's bytes.

/// The type of a metadata value; the discriminants are the format's ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[allow(missing_docs)] // the variants are the types' own names
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// The type with this id.
    pub fn from_id(id: u32) -> Option<Self> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// Bytes of a value, where that is fixed.
    pub fn width(self) -> Option<u64> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            Str | Array => None,
        }
    }
}

/// One metadata value.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs)] // the variants are the types' own names
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

fn le<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.get(..N)?.try_into().ok()
}

impl<'a> Value<'a> {
    /// The value of type `ty` encoded in `bytes`, which hold it and nothing else; `None` when
    /// they do not.
    pub(super) fn decode(ty: ValueType, bytes: &'a [u8]) -> Option<Self> {
        Some(match ty {
            ValueType::U8 => Value::U8(*bytes.first()?),
            ValueType::I8 => Value::I8(i8::from_le_bytes(le(bytes)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(le(bytes)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(le(bytes)?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(le(bytes)?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(le(bytes)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(le(bytes)?)),
            ValueType::Bool => Value::Bool(*bytes.first()? != 0),
            ValueType::U64 => Value::U64(u64::from_le_bytes(le(bytes)?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(le(bytes)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(le(bytes)?)),
            ValueType::Str => Value::Str(std::str::from_utf8(bytes.get(8..)?).ok()?),
            ValueType::Array => Value::Array(Array {
                ty: ValueType::from_id(u32::from_le_bytes(le(bytes)?))?,
                len: usize::try_from(u64::from_le_bytes(le(bytes.get(4..)?)?)).ok()?,
                bytes: bytes.get(12..)?,
            }),
        })
    }

    /// The type of this value.
    pub fn ty(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) => ValueType::Str,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// Any integer, widened.
    pub fn as_int(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }
}

/// An array value: a view of its elements in the file.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    ty: ValueType,
    len: usize,
    /// The elements as the file has them: numbers packed, strings each after its length.
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of every element.
    pub fn ty(&self) -> ValueType {
        self.ty
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in the file's encoding.
    pub fn raw(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements in order. A string that is not UTF-8 ends the walk: read strings by
    /// [`Array::strings`], which says so.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (ty, mut rest) = (self.ty, self.bytes);
        (0..self.len).map_while(move |_| {
            let n = match ty.width() {
                Some(n) => n as usize,
                None => usize::try_from(u64::from_le_bytes(le(rest)?)).ok()?.checked_add(8)?,
            };
            let (head, tail) = rest.split_at_checked(n)?;
            rest = tail;
            Value::decode(ty, head)
        })
    }

    /// The bytes of each string in order; nothing for an array of another type.
    pub fn byte_strings(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let len = if self.ty == ValueType::Str { self.len } else { 0 };
        let mut rest = self.bytes;
        // The reader walked these lengths when it opened the file, so the fallback is not taken.
        (0..len).map(move |_| {
            let n = le(rest).map_or(0, |n| u64::from_le_bytes(n) as usize);
            let (head, tail) =
                rest.get(8..).and_then(|r| r.split_at_checked(n)).unwrap_or_default();
            rest = tail;
            head
        })
    }

    /// The strings.
    ///
    /// # Errors
    /// What is wrong, to follow the key's name: another type, or a string that is not UTF-8.
    pub fn strings(&self) -> Result<Vec<&'a str>, String> {
        if self.ty != ValueType::Str {
            return Err(format!("has elements of type {:?}, not strings", self.ty));
        }
        let mut out = Vec::with_capacity(self.len);
        for (i, raw) in self.byte_strings().enumerate() {
            match std::str::from_utf8(raw) {
                Ok(s) => out.push(s),
                Err(e) => return Err(format!("has element {i}, which is not UTF-8 ({e})")),
            }
        }
        Ok(out)
    }
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{:?}; {}]", self.ty, self.len)
    }
}

/// What a metadata value can be asked for as, by `Gguf::get` and `Gguf::opt`.
///
/// Integers convert between widths and signs where the number itself allows it.
pub trait FromValue<'a>: Sized {
    /// The value converted; an error says what it is instead, to follow the key's name.
    fn from_value(value: Value<'a>) -> Result<Self, String>;
}

macro_rules! ints {
    ($($t:ty),+) => {$(
        impl<'a> FromValue<'a> for $t {
            fn from_value(value: Value<'a>) -> Result<Self, String> {
                let n = value
                    .as_int()
                    .ok_or_else(|| format!("is of type {:?}, not an integer", value.ty()))?;
                n.try_into().map_err(|_| format!("is {n}, out of range of {}", stringify!($t)))
            }
        }
    )+};
}
ints!(u32, i32, u64, i64, usize);

macro_rules! scalars {
    ($($t:ty, $wanted:literal, $($from:pat => $to:expr),+;)+) => {$(
        impl<'a> FromValue<'a> for $t {
            fn from_value(value: Value<'a>) -> Result<Self, String> {
                match value {
                    $($from => Ok($to),)+
                    _ => Err(format!("is of type {:?}, not {}", value.ty(), $wanted)),
                }
            }
        }
    )+};
}
scalars! {
    f32, "a float", Value::F32(v) => v, Value::F64(v) => v as f32;
    f64, "a float", Value::F32(v) => v.into(), Value::F64(v) => v;
    bool, "a bool", Value::Bool(v) => v;
    &'a str, "a string", Value::Str(v) => v;
    Array<'a>, "an array", Value::Array(v) => v;
}

impl<'a> FromValue<'a> for Value<'a> {
    fn from_value(value: Value<'a>) -> Result<Self, String> {
        Ok(value)
    }
}

macro_rules! vectors {
    ($($t:ty),+) => {$(
        impl<'a> FromValue<'a> for Vec<$t> {
            fn from_value(value: Value<'a>) -> Result<Self, String> {
                let array = Array::from_value(value)?;
                array
                    .iter()
                    .map(<$t>::from_value)
                    .collect::<Result<_, _>>()
                    .map_err(|e| format!("has an element that {e}"))
            }
        }
    )+};
}
vectors!(u32, i32, u64, f32, bool);

impl<'a> FromValue<'a> for Vec<&'a str> {
    fn from_value(value: Value<'a>) -> Result<Self, String> {
        Array::from_value(value)?.strings()
    }
}
