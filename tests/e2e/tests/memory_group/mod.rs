//! A memory cgroup of the test's own, in which the kernel kills a process of the test's choice.

#![allow(clippy::print_stderr, reason = "a test says what it leaves out")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Removed in the end.
pub struct MemoryGroup {
    folder: PathBuf,
    /// Where the kernel counts whom it killed.
    counts: &'static str,
}

impl MemoryGroup {
    /// A group with this limit. None where this machine allows none, which is said.
    pub fn new(bytes: u64) -> Option<Self> {
        let (root, limit, counts) = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            ("/sys/fs/cgroup", "memory.max", "memory.events")
        } else {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control")
        };
        let folder = Path::new(root).join(format!("trireme-test-{}", std::process::id()));
        let made = fs::create_dir(&folder).map(|()| Self { folder, counts });
        match made.and_then(|group| group.write(limit, bytes).map(|()| group)) {
            Ok(group) => {
                // Where there is swap the limit would only slow things down; each version of cgroups has its own word.
                let _ = group.write("memory.swappiness", 0).or_else(|_| group.write("memory.swap.max", 0));
                Some(group)
            }
            Err(error) => {
                eprintln!("skipped: no memory cgroup can be made in {root}: {error}");
                None
            }
        }
    }

    fn write(&self, file: &str, value: u64) -> io::Result<()> {
        fs::write(self.folder.join(file), value.to_string())
    }

    /// Fills the group's memory with the process in it, which is made the first that the kernel would kill. Which memory
    /// counts for the group differs with the kernel; so another process, which is killed next, uses it up.
    pub fn exhaust(&self, pid: u32) {
        fs::write(format!("/proc/{pid}/oom_score_adj"), "1000").expect("the process is there");
        self.write("cgroup.procs", pid.into()).expect("the group takes the process");
        let mut glutton = Command::new("sh");
        glutton.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec tail /dev/zero"]).arg(&self.folder);
        let status = glutton.stdin(Stdio::null()).status().expect("there is a shell");
        assert!(!status.success(), "it has no bounds but the group's");
    }

    /// How often the kernel killed for want of memory.
    pub fn kills(&self) -> u64 {
        let counts = fs::read_to_string(self.folder.join(self.counts)).expect("the kernel counts");
        let count = counts.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.expect("kills are counted").parse().expect("a number")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // What was killed may take a moment to be gone.
        for _ in 0..100 {
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => return,
            }
        }
    }
}
