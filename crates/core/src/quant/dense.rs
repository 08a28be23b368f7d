//! Dense elements as blocks of one.

use super::{BlockFormat, Quantizer};
use crate::{DType, DeviceRepr, bf16, f16};

macro_rules! dense {
    ($($t:ty),+) => {$(
        impl BlockFormat for $t {
            const DTYPE: DType = <$t as DeviceRepr>::DTYPE;
            const BLOCK: usize = 1;
            fn dequantize(&self, out: &mut [f32]) {
                out[0] = self.widen();
            }
            const QUANTIZE: Quantizer<Self> = Some(|x| <$t as DeviceRepr>::narrow(x[0]));
        }
    )+};
}
dense!(f32, f16, bf16);
