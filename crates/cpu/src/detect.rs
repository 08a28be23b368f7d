//! What this machine has, for `devices` and for memory plans.

/// An instruction set extension, whether the processor has it, and whether a kernel uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The usual name.
    pub name: &'static str,
    /// The processor and the system offer it.
    pub present: bool,
    /// Some kernel is written for it.
    pub used: bool,
}

/// Every flag that a kernel uses or may one day.
pub fn flags() -> Vec<Flag> {
    #[allow(unused_mut)]
    let mut flags = vec![];
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! flag {
            ($($name:tt $used:literal),+ $(,)?) => {
                $(flags.push(Flag {
                    name: $name,
                    present: std::is_x86_feature_detected!($name),
                    used: $used,
                });)+
            };
        }
        flag!(
            "sse4.1" false, "sse4.2" false, "avx" false, "avx2" true, "fma" true, "f16c" true,
            "avxvnni" false, "avx512f" true, "avx512bw" true, "avx512vl" true, "avx512dq" true,
            "avx512vnni" true, "avx512bf16" false, "avx512vbmi" false,
        );
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! flag {
            ($($name:tt $used:literal),+ $(,)?) => {
                $(flags.push(Flag {
                    name: $name,
                    present: std::arch::is_aarch64_feature_detected!($name),
                    used: $used,
                });)+
            };
        }
        flag!(
            "neon" false, "fp16" false, "dotprod" false, "i8mm" false, "bf16" false, "sve" false,
        );
    }
    flags
}

/// The processor's name, where the system tells.
pub fn model_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = info.lines().find(|l| l.starts_with(key))?;
        line.split_once(':').map(|(_, v)| v.trim().to_owned())
    };
    field("model name")
        .or_else(|| field("Hardware"))
        .unwrap_or_else(|| std::env::consts::ARCH.into())
}

/// Bytes of memory in use and in all; zeros where the system does not tell.
pub fn memory() -> (u64, u64) {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| {
        let line = info.lines().find(|l| l.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let total = kib("MemTotal:").unwrap_or(0) * 1024;
    let free = kib("MemAvailable:").unwrap_or(0) * 1024;
    (total.saturating_sub(free), total)
}
