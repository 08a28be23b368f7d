//! The instruction sets by name, and the one step from a name to a type.

use super::{Naive, Scalar, Simd, WithSimd};

#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512, Avx512Vnni};

/// An instruction set, from the plainest to the widest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Isa {
    /// One row, one accumulator: the reference the others are measured against.
    Naive,
    /// Portable code with a register tile.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
    /// The same with VNNI.
    Avx512Vnni,
}

/// A computation that needs an instruction set as a type.
pub trait IsaVisitor {
    /// What it returns.
    type Output;
    /// The computation. It runs without the target features of `S`: it chooses or stores
    /// kernels, it is not one.
    fn visit<S: Simd>(self, s: S) -> Self::Output;
}

impl Isa {
    /// All of them, the plainest first.
    pub const ALL: [Isa; 5] = [Isa::Naive, Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Avx512Vnni];

    /// The fastest one of this machine.
    pub fn best() -> Isa {
        Isa::available().last().unwrap_or(Isa::Scalar)
    }

    /// Those this machine has, the plainest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|i| i.is_available())
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        struct Any;
        impl IsaVisitor for Any {
            type Output = ();
            fn visit<S: Simd>(self, _: S) {}
        }
        self.visit(Any).is_some()
    }

    /// `naive`, `scalar`, `avx2`, `avx512`, `avx512vnni`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Naive => "naive",
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512vnni",
        }
    }

    /// The one with this name, in any case; it need not be available.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|i| i.name().eq_ignore_ascii_case(name))
    }

    /// Goes from the name to the type, once: where a plan is compiled, never within a step.
    /// `None` when this machine does not have it.
    pub fn visit<V: IsaVisitor>(self, v: V) -> Option<V::Output> {
        match self {
            Isa::Naive => Naive::detect().map(|s| v.visit(s)),
            Isa::Scalar => Scalar::detect().map(|s| v.visit(s)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().map(|s| v.visit(s)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::detect().map(|s| v.visit(s)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Avx512Vnni::detect().map(|s| v.visit(s)),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
    }

    /// Runs one operation compiled for this instruction set: for tests and one-off work.
    pub fn vectorize<Op: WithSimd>(self, op: Op) -> Option<Op::Output> {
        struct Run<Op>(Op);
        impl<Op: WithSimd> IsaVisitor for Run<Op> {
            type Output = Op::Output;
            fn visit<S: Simd>(self, s: S) -> Op::Output {
                s.vectorize(self.0)
            }
        }
        self.visit(Run(op))
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
