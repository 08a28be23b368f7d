//! What this machine has, for `devices` and for memory plans.

use std::fs;
use std::path::{Path, PathBuf};

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

impl Flag {
    /// `used`, `present, not used` or `absent`.
    pub fn state(&self) -> &'static str {
        match (self.present, self.used) {
            (true, true) => "used",
            (true, false) => "present, not used",
            (false, _) => "absent",
        }
    }
}

/// Every flag that a kernel uses or may one day.
#[cfg(target_arch = "x86_64")]
pub fn flags() -> Vec<Flag> {
    let mut flags = vec![];
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
        "ssse3" true, "sse4.1" true, "sse4.2" false, "avx" false, "avx2" true, "fma" true,
        "f16c" true, "avxvnni" false, "avx512f" true, "avx512bw" true, "avx512vl" true,
        "avx512dq" true, "avx512vbmi" false, "avx512vnni" true, "avx512bf16" false,
        "avx512fp16" false,
    );
    // The standard library does not tell of these yet: leaf 7 of CPUID does, and, since a system
    // must keep their registers too, its own list where there is one.
    let offered = |name: &str| cpuinfo("flags").is_none_or(|f| f.split(' ').any(|f| f == name));
    let leaf = std::arch::x86_64::__cpuid_count(7, 0).edx;
    for (name, bit, listed) in
        [("amx-tile", 24, "amx_tile"), ("amx-int8", 25, "amx_int8"), ("amx-bf16", 22, "amx_bf16")]
    {
        let present = leaf >> bit & 1 == 1 && offered(listed);
        flags.push(Flag { name, present, used: false });
    }
    flags
}

/// Every flag that a kernel uses or may one day.
#[cfg(target_arch = "aarch64")]
pub fn flags() -> Vec<Flag> {
    let mut flags = vec![];
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
        "neon" true, "dotprod" true, "i8mm" true, "fp16" false, "bf16" false, "sve" false,
        "sve2" false,
    );
    // The standard library does not tell of this one yet; Linux hands it to every process.
    #[cfg(target_os = "linux")]
    {
        const HWCAP2: u64 = 26;
        const SME: u64 = 1 << 23;
        let present = fs::read("/proc/self/auxv").is_ok_and(|pairs| {
            let mut pairs = pairs.as_chunks::<8>().0.iter().map(|&b| u64::from_le_bytes(b));
            std::iter::from_fn(|| Some((pairs.next()?, pairs.next()?)))
                .any(|(key, value)| key == HWCAP2 && value & SME != 0)
        });
        flags.push(Flag { name: "sme", present, used: false });
    }
    flags
}

/// Every flag that a kernel uses or may one day. What runs WebAssembly must have all that the
/// program was compiled with.
#[cfg(target_family = "wasm")]
pub fn flags() -> Vec<Flag> {
    vec![Flag { name: "simd128", present: cfg!(target_feature = "simd128"), used: true }]
}

/// Every flag that a kernel uses or may one day: none here, where portable code runs.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_family = "wasm")))]
pub fn flags() -> Vec<Flag> {
    vec![]
}

/// The first field of this name that Linux tells of a processor.
fn cpuinfo(key: &str) -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with(key))?;
    line.split_once(':').map(|(_, v)| v.trim().to_owned())
}

/// The processor's name, where the system tells.
pub fn model_name() -> String {
    cpuinfo("model name")
        .or_else(|| cpuinfo("Hardware"))
        .unwrap_or_else(|| std::env::consts::ARCH.into())
}

/// Bytes of memory that this process may not take, and in all; zeros where the system does not
/// tell. What is left is what the system calls available, or what the process's control groups
/// (the limits of a container) leave, whichever is less.
pub fn memory() -> (u64, u64) {
    memory_below("/".as_ref())
}

/// [`memory`] with `/proc` and `/sys` below another root.
fn memory_below(root: &Path) -> (u64, u64) {
    let info = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let kib = |key: &str| {
        let line = info.lines().find(|l| l.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let total = kib("MemTotal:").unwrap_or(0).saturating_mul(1024);
    let free = kib("MemAvailable:").unwrap_or(0).saturating_mul(1024);
    let free = group_limits(root).into_iter().fold(free, u64::min);
    (total.saturating_sub(free), total)
}

/// What each control group that this process is in leaves of its limit, in bytes.
fn group_limits(root: &Path) -> Vec<u64> {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut left = vec![];
    for line in groups.lines() {
        // `id:controllers:path`; version 2 names no controllers.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mount, files) = match controllers {
            "" => ("sys/fs/cgroup", ["memory.max", "memory.current", "inactive_file"]),
            c if c.split(',').any(|c| c == "memory") => (
                "sys/fs/cgroup/memory",
                ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"],
            ),
            _ => continue,
        };
        let [limit, used, cached] = files;
        let mount = root.join(mount);
        // A limit of any group above holds too. In a container the path may be the host's, which
        // is not there; its own group is then the mount itself.
        let own = mount.join(path.trim_start_matches('/'));
        for group in own.ancestors().take_while(|g| g.starts_with(&mount)) {
            let (Some(limit), Some(used)) = (number(group.join(limit)), number(group.join(used)))
            else {
                continue;
            };
            let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
            let line = stat.lines().find_map(|l| l.strip_prefix(cached)?.strip_prefix(' '));
            // The cache of files read once is given back before anything is refused.
            let cached = line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
            left.push(limit.saturating_sub(used.saturating_sub(cached)));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file below a root of our own.
    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What the system lists of this processor, by its own names.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn flags_are_those_of_the_system() {
        let flags = flags();
        // An emulator shows the host's list.
        if std::env::var_os("GRISTMILL_EMULATED").is_some() {
            eprintln!("emulated: the system's list is that of another processor");
            return;
        }
        let listed = cpuinfo("flags").expect("Linux lists flags");
        for f in &flags {
            let theirs = match f.name {
                "avxvnni" => "avx_vnni".to_owned(),
                "avx512vbmi" | "avx512vnni" | "avx512bf16" | "avx512fp16" => {
                    f.name.replace("avx512", "avx512_")
                }
                name => name.replace(['.', '-'], "_"),
            };
            let there = listed.split(' ').any(|l| l == theirs || l == f.name);
            assert_eq!(f.present, there, "{}", f.name);
        }
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "no temporary folder, no processes")]
    fn the_least_limit_counts() {
        let root = std::env::temp_dir().join(format!("gristmill-detect-{}", std::process::id()));
        assert_eq!(memory_below(&root), (0, 0));
        let info = "MemTotal:        8000 kB\nMemFree: 1 kB\nMemAvailable:    5000 kB\n";
        put(&root, "proc/meminfo", info);
        assert_eq!(memory_below(&root), (3000 << 10, 8000 << 10));

        put(&root, "proc/self/cgroup", "0::/a/b\n");
        put(&root, "sys/fs/cgroup/a/b/memory.max", "max\n");
        put(&root, "sys/fs/cgroup/a/b/memory.current", "100\n");
        assert_eq!(memory_below(&root), (3000 << 10, 8000 << 10));
        // The group above has a limit of 2,000 KiB, uses 1,500 and could give back 500.
        put(&root, "sys/fs/cgroup/a/memory.max", &format!("{}\n", 2000 << 10));
        put(&root, "sys/fs/cgroup/a/memory.current", &format!("{}\n", 1500 << 10));
        let stat = format!("anon 7\ninactive_file {}\n", 500 << 10);
        put(&root, "sys/fs/cgroup/a/memory.stat", &stat);
        assert_eq!(memory_below(&root), (7000 << 10, 8000 << 10));

        put(&root, "proc/self/cgroup", "5:cpu:/x\n4:memory:/not/there\n");
        put(&root, "sys/fs/cgroup/memory/memory.limit_in_bytes", &format!("{}", 600 << 10));
        put(&root, "sys/fs/cgroup/memory/memory.usage_in_bytes", "0");
        assert_eq!(memory_below(&root), (7400 << 10, 8000 << 10));
        fs::remove_dir_all(root).unwrap();
    }
}
