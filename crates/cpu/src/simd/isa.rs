//! The instruction sets by name, and the one step from a name to a type.

use super::{Naive, Scalar, Simd, WithSimd};

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use super::Wasm;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512, Avx512Vnni, Sse41};
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use super::{Neon, NeonDotprod, NeonI8mm};

/// An instruction set, from the plainest to the widest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Isa {
    /// One row, one accumulator: the reference the others are measured against.
    Naive,
    /// Portable code with a register tile.
    Scalar,
    /// SSE4.1 with SSSE3.
    Sse41,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
    /// The same with VNNI.
    Avx512Vnni,
    /// NEON, 128 bits.
    Neon,
    /// The same with dot products of bytes.
    NeonDotprod,
    /// The same with products of matrices of bytes.
    NeonI8mm,
    /// WebAssembly's simd128.
    Wasm,
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
    pub const ALL: [Isa; 10] = [
        Isa::Naive,
        Isa::Scalar,
        Isa::Sse41,
        Isa::Avx2,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Neon,
        Isa::NeonDotprod,
        Isa::NeonI8mm,
        Isa::Wasm,
    ];

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

    /// `naive`, `scalar`, `sse41`, `avx2`, `avx512`, `avx512vnni`, `neon`, `dotprod`,
    /// `i8mm`, `simd128`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Naive => "naive",
            Isa::Scalar => "scalar",
            Isa::Sse41 => "sse41",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "dotprod",
            Isa::NeonI8mm => "i8mm",
            Isa::Wasm => "simd128",
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
            Isa::Sse41 => Sse41::detect().map(|s| v.visit(s)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().map(|s| v.visit(s)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::detect().map(|s| v.visit(s)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Avx512Vnni::detect().map(|s| v.visit(s)),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::Neon => Neon::detect().map(|s| v.visit(s)),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::NeonDotprod => NeonDotprod::detect().map(|s| v.visit(s)),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::NeonI8mm => NeonI8mm::detect().map(|s| v.visit(s)),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Isa::Wasm => Wasm::detect().map(|s| v.visit(s)),
            // Those of other processors.
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
