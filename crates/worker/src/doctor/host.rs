//! Processor, memory, disk and loader path: what the operating system says.

use super::Check;
use nix::sys::resource::{Resource, getrlimit};

/// With fewer open files than these a large run does not fit.
const FEW_FILES: u64 = 4096;

/// In the order in which they are shown.
pub(super) fn checks() -> Vec<Check> {
    vec![cores(), instructions(), memory(), open_files(), shared_libraries()]
}

fn cores() -> Check {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    Check::ok("cores", format!("{usable} usable by this process"))
}

/// What decides how fast and, in the last bits, what libtorch computes.
fn instructions() -> Check {
    #[cfg(target_arch = "x86_64")]
    {
        let found: Vec<&str> = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
            ("amx-bf16", cpu_flag("amx_bf16")),
        ]
        .into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect();
        if found.contains(&"avx2") {
            Check::ok("instructions", found.join(" "))
        } else {
            let help = "training works, many times slower; all workers of an exact run should have the same";
            Check::note("instructions", "no AVX2", help)
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    Check::ok("instructions", std::env::consts::ARCH)
}

#[cfg(target_arch = "x86_64")]
fn cpu_flag(flag: &str) -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().find(|line| line.starts_with("flags")).is_some_and(|line| line.split_whitespace().any(|f| f == flag))
}

fn memory() -> Check {
    const NAME: &str = "memory";
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let limit =
        std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let (Some(total), Some(available)) = (kib("MemTotal:"), kib("MemAvailable:")) else {
        return Check::note(NAME, "unknown: /proc/meminfo cannot be read", "mount /proc");
    };
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let usable = limit.unwrap_or(u64::MAX).min(available * 1024);
    let mut found = format!("{:.1} GiB, {:.1} GiB available", gib(total * 1024), gib(available * 1024));
    if let Some(limit) = limit {
        found += &format!(", this control group may use {:.1} GiB", gib(limit));
    }
    if usable < 1 << 30 {
        Check::note(NAME, found, "BERT base needs about 4 GiB a worker; use a smaller model or micro-batch")
    } else {
        Check::ok(NAME, found)
    }
}

/// A worker's connections to the other members of its run take the most, a coordinator's those to its workers.
fn open_files() -> Check {
    const NAME: &str = "open files";
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Check::note(NAME, "unknown: the limit cannot be read", "raise it with `ulimit -n` if workers are many");
    };
    open_files_check(NAME, soft, hard)
}

fn open_files_check(name: &'static str, soft: u64, hard: u64) -> Check {
    let found = format!("at most {hard} (`ulimit -Hn`), {soft} unless a program asks for more, as this one does");
    if hard >= FEW_FILES {
        Check::ok(name, found)
    } else {
        let help = "runs of many hundred workers need a connection for each: raise `nofile` in \
                    /etc/security/limits.conf, LimitNOFILE= of the service, or --ulimit of the container";
        Check::note(name, found, help)
    }
}

/// Another torch on the loader's path would be loaded instead of the one this program was built with.
fn shared_libraries() -> Check {
    const NAME: &str = "loader path";
    let path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let others: Vec<&str> = path
        .split(':')
        .filter(|folder| !folder.is_empty() && std::path::Path::new(folder).join("libtorch_cpu.so").exists())
        .collect();
    if others.is_empty() {
        Check::ok(NAME, "no other libtorch on it")
    } else {
        let found = format!("LD_LIBRARY_PATH names another libtorch: {}", others.join(", "));
        Check::note(NAME, found, "unset LD_LIBRARY_PATH: this program finds its own libtorch")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn a_low_limit_on_open_files_is_named_with_what_to_do() {
        let check = open_files_check("open files", 1024, 2048);
        assert_eq!(check.outcome, Outcome::Note);
        assert!(check.found.contains("2048") && check.help.unwrap().contains("LimitNOFILE"));
        assert_eq!(open_files_check("open files", 1024, 1 << 20).outcome, Outcome::Ok);
    }
}
