//! Slows processes down: the kernel gives each no more than its part of one core's time.
//!
//! Three workers with a core each cannot be had on a machine of two cores. Three that together may use less than two
//! can. It needs CPU cgroups of either version, and the right to make them.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Short beside a step, in whose collectives the others wait for one that has used up its time.
const PERIOD_MICROSECONDS: u64 = 10_000;

/// The groups of some processes; dropping it lets them run freely again.
pub struct Throttle {
    groups: Vec<Group>,
}

struct Group {
    root: &'static str,
    folder: PathBuf,
    process: u32,
}

impl Throttle {
    /// For each process the part of one core's time that it may use.
    pub fn start(processes: &[(u32, f64)]) -> Result<Self> {
        let mut throttle = Self { groups: Vec::new() };
        for &(process, part) in processes {
            throttle.groups.push(Group::make(process)?);
            let group = throttle.groups.last().expect("just pushed");
            group.limit(part).with_context(|| format!("cannot slow process {process} down"))?;
        }
        Ok(throttle)
    }
}

impl Group {
    fn make(process: u32) -> Result<Self> {
        static GROUPS: AtomicU32 = AtomicU32::new(0);
        let root = root();
        let number = GROUPS.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new(root).join(format!("trireme-bench-{}-{number}", std::process::id()));
        fs::create_dir(&folder).with_context(|| {
            format!("no CPU cgroup can be made in {root}: run it as root, on a kernel with CFS bandwidth control")
        })?;
        Ok(Self { root, folder, process })
    }

    fn limit(&self, part: f64) -> Result<()> {
        ensure!(0.0 < part && part <= 1.0, "{part} is no part of one core");
        let quota = (PERIOD_MICROSECONDS as f64 * part) as u64;
        if is_unified() {
            fs::write(Path::new(self.root).join("cgroup.subtree_control"), "+cpu")?;
            fs::write(self.folder.join("cpu.max"), format!("{quota} {PERIOD_MICROSECONDS}"))?;
        } else {
            fs::write(self.folder.join("cpu.cfs_period_us"), PERIOD_MICROSECONDS.to_string())?;
            fs::write(self.folder.join("cpu.cfs_quota_us"), quota.to_string())?;
        }
        Ok(fs::write(self.folder.join("cgroup.procs"), self.process.to_string())?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that has ended is no concern of the throttle's: whoever measures sees that the run lost a worker.
        let _ = fs::write(Path::new(self.root).join("cgroup.procs"), self.process.to_string());
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Version 2 of cgroups, with all controllers in one tree.
fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn root() -> &'static str {
    if is_unified() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/cpu" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Clock ticks that a process has used: the fields after the name in parentheses begin with the third.
    fn ticks(process: u32) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// The kernel's own count says that it held the process up; after the throttle the group is gone and it runs on.
    #[test]
    fn a_process_is_held_up_until_the_throttle_is_gone() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        match Throttle::start(&[(child.id(), 0.1)]) {
            Ok(throttle) => {
                let folder = throttle.groups[0].folder.clone();
                let held_up = |folder: &Path| {
                    let text = fs::read_to_string(folder.join("cpu.stat")).unwrap();
                    text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse::<u64>().ok()).unwrap()
                };
                while held_up(&folder) < 5 {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                drop(throttle);
                assert!(!folder.exists());
                let before = ticks(child.id());
                while ticks(child.id()) == before {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
            Err(error) => assert!(error.to_string().contains("no CPU cgroup can be made"), "{error:#}"),
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_part_is_more_than_nothing_and_no_more_than_all() {
        for part in [0.0, -1.0, 1.1, f64::NAN] {
            let outcome = Throttle::start(&[(std::process::id(), part)]);
            assert!(outcome.is_err(), "{part}");
        }
    }
}
