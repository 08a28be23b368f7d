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
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = info.lines().find(|l| l.starts_with(key))?;
        line.split_once(':').map(|(_, v)| v.trim().to_owned())
    };
    field("model name")
        .or_else(|| field("Hardware"))
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

    #[test]
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
