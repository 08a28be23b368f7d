//! Parameters of kernels: structures of addresses, then numbers, as C lays them out. Addresses are known
//! only where a plan meets a context.

use crate::driver::memory::Buffer;

/// What an address is of.
#[derive(Clone)]
pub(crate) enum Resource {
    Ints,
    Derived,
    Last,
    /// A place in the workspace, in bytes.
    Work(usize),
    State(usize),
    Held(Buffer, u64),
    /// Nothing: the kernel does not look at it here.
    None,
}

#[derive(Clone)]
enum Arg {
    Address(Resource),
    Long(u64),
    Word(u32),
}

/// A structure in the making.
#[derive(Clone, Default)]
pub(crate) struct Args(Vec<Arg>);

impl Args {
    pub fn new() -> Args {
        Args::default()
    }

    pub fn ptr(mut self, r: Resource) -> Args {
        self.0.push(Arg::Address(r));
        self
    }

    pub fn ptrs(self, all: impl IntoIterator<Item = Resource>) -> Args {
        all.into_iter().fold(self, Args::ptr)
    }

    pub fn long(mut self, v: u64) -> Args {
        self.0.push(Arg::Long(v));
        self
    }

    pub fn u(mut self, v: u32) -> Args {
        self.0.push(Arg::Word(v));
        self
    }

    pub fn f(self, v: f32) -> Args {
        self.u(v.to_bits())
    }

    pub fn all(self, words: &[u32]) -> Args {
        words.iter().fold(self, |a, &w| a.u(w))
    }

    /// The bytes, with what `address` says of everything but held buffers. Eight-byte members lie at
    /// multiples of eight, and so does the end.
    pub fn encode(&self, address: &dyn Fn(&Resource) -> u64) -> Vec<u8> {
        let mut bytes = vec![];
        let long = |bytes: &mut Vec<u8>, v: u64| {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes.extend(v.to_le_bytes());
        };
        for arg in &self.0 {
            match arg {
                Arg::Address(Resource::Held(buffer, at)) => long(&mut bytes, buffer.at() + at),
                Arg::Address(Resource::None) => long(&mut bytes, 0),
                Arg::Address(r) => long(&mut bytes, address(r)),
                Arg::Long(v) => long(&mut bytes, *v),
                Arg::Word(v) => bytes.extend(v.to_le_bytes()),
            }
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What C would make of `{ const u32* a; u32 b; u64 c; float d; }`.
    #[test]
    fn laid_out_as_in_c() {
        let a = Args::new().ptr(Resource::Work(8)).u(7).long(9).f(1.0);
        let at = |r: &Resource| if let Resource::Work(n) = r { 4096 + *n as u64 } else { 0 };
        let words: Vec<u64> = a
            .encode(&at)
            .chunks_exact(8)
            .map(|c| u64::from_le_bytes(c.try_into().unwrap()))
            .collect();
        assert_eq!(words, [4104, 7, 9, u64::from(1f32.to_bits())]);
    }
}
